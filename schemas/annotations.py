"""Annotations that a person makes on the page of ``vitatlas annotate``."""

from typing import Literal

from schemas.base import Record
from schemas.run import TruthOrientation

ImageSelection = Literal["random", "disagreement"]


class CocoInfo(Record):
    """``info.vit_atlas`` of a COCO file: what the reader cannot tell from COCO itself.

    Attributes:
        orientation: of the images that the coordinates are of.
        whole_keys: names of images are whole keys, so that ``a/001.jpg`` is not meant by ``001.jpg``.
        page: hash of what the page of the annotations shows; an image without annotations then has no object.
        selection: how its images were chosen.
    """

    orientation: TruthOrientation | None = None
    whole_keys: bool = False
    page: str | None = None
    selection: ImageSelection | None = None
