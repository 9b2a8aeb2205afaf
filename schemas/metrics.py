"""Tables of faithfulness and sanity: a figure of every map, and what they come to."""

from typing import Literal

import pyarrow as pa

from schemas.arrow import CATEGORY
from schemas.base import Record

MetricSuite = Literal["faithfulness", "sanity"]
Direction = Literal["higher", "lower"]

FAITHFULNESS_METRICS: dict[str, Direction] = {
    "average_drop": "lower",
    "increase": "higher",
    "coherency": "higher",
    "complexity": "lower",
    "adcc": "higher",
    "positive": "lower",
    "negative": "higher",
    "deletion": "lower",
    "insertion": "higher",
    "abpc": "higher",
    "noise_most": "lower",
    "noise_least": "higher",
    "noise_nll_most": "higher",
    "noise_nll_least": "lower",
    "sensitivity_max": "lower",
}
"""Figures of faithfulness, and whether higher or lower is better. Formulas: ``docs/reference/faithfulness.md``."""

SANITY_METRICS: dict[str, Direction] = {
    "mprt": "lower",
    "smprt": "lower",
    "emprt": "higher",
    "random_logit": "lower",
    "noisy_5": "higher",
    "noisy_10": "higher",
    "noisy_20": "higher",
}
"""Figures of sanity, likewise."""

METRIC_VALUES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("method", CATEGORY, nullable=False),
        pa.field("target", CATEGORY, nullable=False),
        pa.field("metric", CATEGORY, nullable=False),
        pa.field("value", pa.float64()),
    ]
)
"""One row an image, method, target and figure. ``row``, ``key`` – of the sample; ``target`` – whose map; ``figure`` –
a name in a measure's ``figures``; ``value`` – null where it is not defined."""

METRIC_SUMMARY = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("better", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("mean", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("note", pa.string()),
    ]
)
"""One row a method, target and figure. ``better`` – ``higher`` or ``lower``; ``images`` – that have a value; ``mean`` –
of them; ``low``, ``high`` – from 2.5 to 97.5 % of the bootstrap over images, whose draws all methods share;
``note`` – what must be known to read the figure, null of most. The figure ``adcc_of_means`` is ADCC of the means of its
parts, as tables of papers have it."""

OWN_WEIGHTS = "the method has weights of its own, which were not randomised with those of the network"
"""Note of figures that compare a network with one that forgets."""


class MetricsRecord(Record):
    """``about.json`` of a folder of figures: what they are of. Written first.

    Attributes:
        protocol: version of the formulas.
        run: hash of the run that made the atlas.
        kind, methods: what is measured.
        images: that are drawn, at most.
        seed: of the draw, and of all that measures draw.
        measures: options of each, by its name.
    """

    protocol: int = 1
    run: str
    kind: MetricSuite
    methods: tuple[str, ...]
    images: int
    seed: int
    metrics: dict[str, dict[str, int | float | str]]
