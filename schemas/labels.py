"""The label table: one row for every sample of a shard, with or without a mask."""

from enum import StrEnum

import pyarrow as pa

from schemas.arrow import CATEGORY
from schemas.base import Record

VERSION = 1
"""Of what is in labels and how they are written."""


class LabelStatus(StrEnum):
    """What became of a label. Samples without maps keep their own status instead.

    Attributes:
        OK: it has a mask.
        EMPTY: nothing is foreground.
        NO_SIGNAL: its maps are constant or were not finite.
        LOW_PROBABILITY, NOT_TOP1, TOO_SMALL, TOO_LARGE, DISAGREEMENT: left out by the filter.
    """

    OK = "ok"
    EMPTY = "empty"
    NO_SIGNAL = "no_signal"
    LOW_PROBABILITY = "low_probability"
    NOT_TOP1 = "not_top1"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    DISAGREEMENT = "disagreement"


LABELS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", CATEGORY, nullable=False),
        pa.field("label", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("threshold", pa.float64()),
        pa.field("background", pa.float64()),
        pa.field("area", pa.float64()),
        pa.field("ignored", pa.float64()),
        pa.field("components", pa.int32()),
        pa.field("boxes", pa.list_(pa.list_(pa.int32(), 4))),
        pa.field("probability", pa.float32()),
        pa.field("agreement", pa.float64()),
        pa.field("image_sha256", pa.string()),
        pa.field("policy", CATEGORY, nullable=False),
        pa.field("parent", CATEGORY, nullable=False),
    ]
)
"""Columns:

- ``row``, ``key`` – of the sample; ``status`` – a ``LabelStatus``, or that of the sample where it has no map. Only
  ``ok`` and ``empty`` (nothing is foreground) have a mask.
- ``label`` – the class that the mask is of; ``probability`` – what the network gives it.
- ``width``, ``height`` – of mask and original picture. ``threshold`` – that foreground lies above; ``background`` –
  that background does not; null where nothing is ignored. ``area``, ``ignored`` – fraction of the picture that is
  foreground, and that is ignored. ``components`` – of the foreground; ``boxes`` – one for each, tight,
  x0, y0, x1, y1 in original pixels, both ends inclusive, largest component first.
- ``agreement`` – mean IoU between the masks of each two methods, null where there is one.
- ``image_sha256`` – of the encoded image; ``policy`` – its hash; ``parent`` – that of the maps it was made from.
"""


class LabelsRecord(Record):
    """``policy.json`` of a folder of labels: what they are made by and from. Written first.

    Attributes:
        version: of the code that makes labels. Labels of another one are not gone on with.
        policy: as it was asked for.
        hash: of the one that was applied.
        run: hash of the run that made the atlas.
        classes: hash of the names of the classes; None where they are numbers.
        truth, tuned: hash of the truth that the cut was calibrated on, and of the run that made those maps.
        threshold, calibration: what was found, and how; None where the policy has its own.
    """

    version: int = VERSION
    policy: dict[str, object]
    run: str
    classes: str | None = None
    truth: str | None = None
    tuned: str | None = None
    threshold: float | None = None
    calibration: str | None = None
    hash: str = ""
