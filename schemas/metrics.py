"""Registered metrics of faithfulness and sanity, and the tables of their values and summaries."""

from typing import Literal

import pyarrow as pa

from schemas.arrow import CATEGORY, column, optional, schema
from schemas.base import Record

MetricSuite = Literal["faithfulness", "sanity"]
Direction = Literal["higher", "lower"]

Directions = dict[str, Direction]
"""Whether higher or lower is better, by the name of a value."""

REGISTERED_METRICS: dict[MetricSuite, dict[str, Directions]] = {
    "faithfulness": {
        "adcc": {
            "average_drop": "lower",
            "increase": "higher",
            "coherency": "higher",
            "complexity": "lower",
            "adcc": "higher",
        },
        "perturbation_auc": {"positive": "lower", "negative": "higher"},
        "deletion_insertion": {"deletion": "lower", "insertion": "higher", "abpc": "higher"},
        "diffmask_curves": {
            "noise_most": "lower",
            "noise_least": "higher",
            "noise_nll_most": "higher",
            "noise_nll_least": "lower",
        },
        "saco": {"saco": "higher"},
        "grid_pointing": {"grid_pointing": "higher"},
        "max_sensitivity": {"sensitivity_max": "lower"},
    },
    "sanity": {
        "parameter_randomization": {"mprt": "lower", "smprt": "lower", "emprt": "higher"},
        "random_logit": {"random_logit": "lower"},
        "noise_sensitivity": {"noisy_5": "higher", "noisy_10": "higher", "noisy_20": "higher"},
    },
}
"""Metrics by suite, with the values that each gives. An entry registers the metric whose class is in
``pipeline/metrics/<name>.py``. Formulas: ``docs/reference/metrics.md``."""

DIRECTIONS = REGISTERED_METRICS["faithfulness"] | REGISTERED_METRICS["sanity"]
"""Directions of all registered metrics."""


def _flatten(suite: MetricSuite) -> Directions:
    return {value: better for directions in REGISTERED_METRICS[suite].values() for value, better in directions.items()}


FAITHFULNESS_METRICS, SANITY_METRICS = _flatten("faithfulness"), _flatten("sanity")
"""Directions of all values of a suite."""

METRIC_DESCRIPTIONS: dict[str, str] = {
    "average_drop": "relative loss of probability where the image is multiplied by the map",
    "increase": "share of images whose probability rises where the image is multiplied by the map",
    "coherency": "similarity of the map and the map of the image multiplied by it",
    "complexity": "mean of the map; low for a map of one patch, so it is no evidence by itself",
    "adcc": "harmonic mean of coherency, 1 − complexity and 1 − average drop",
    "adcc_of_means": "ADCC of the means of its parts, as papers report it",
    "positive": "area under the accuracy while the most relevant patches become black",
    "negative": "area under the accuracy while the least relevant patches become black",
    "deletion": "area under the probability while the most relevant patches become the mean color",
    "insertion": "area under the probability while the most relevant patches appear on the blurred image",
    "abpc": "area under the probability with the least relevant patches first, minus that with the most relevant first",
    "noise_most": "area under the probability while the most relevant patches become noise",
    "noise_least": "area under the probability while the least relevant patches become noise",
    "noise_nll_most": "area under −log of the probability while the most relevant patches become noise",
    "noise_nll_least": "area under −log of the probability while the least relevant patches become noise",
    "saco": "agreement of the relevance of groups of patches with their effect, from −1 to 1",
    "grid_pointing": "share of positive relevance on the cell of the class in a mosaic of four images",
    "sensitivity_max": "largest relative change of the map where a little noise is added to the image",
    "mprt": "rank correlation with maps of the network while its weights are randomized layer by layer",
    "smprt": "the same for maps that are averaged over noisy images",
    "emprt": "rise of the entropy of the map's values once all weights are randomized",
    "random_logit": "rank correlation with the map of another class",
    "noisy_5": "rank correlation with the map of the image with 5 % of noise",
    "noisy_10": "rank correlation with the map of the image with 10 % of noise",
    "noisy_20": "rank correlation with the map of the image with 20 % of noise",
}
"""Descriptions of all metrics, and of ``adcc_of_means``, which only summaries have."""

MAP_FORWARDS = 0.7
"""Time of a map of several methods together, in masked forwards (``docs/explanation/performance.md``)."""

METRIC_VALUES = schema(
    column("row", pa.int64(), "row of the sample in the atlas"),
    column("key", pa.string(), "key of the sample"),
    column("method", CATEGORY, "name of the attribution method, with its options"),
    column("target", CATEGORY, "target kind of the map"),
    column("metric", CATEGORY, "name of the metric"),
    optional("value", pa.float64(), "value of the metric; null where it is not defined"),
)
"""One row per image, method, target kind and metric."""

METRIC_SUMMARY = schema(
    column("method", pa.string(), "name of the attribution method, with its options"),
    column("target", pa.string(), "target kind of the maps"),
    column("metric", pa.string(), "name; ``adcc_of_means`` is ADCC of the means of its parts, as papers report it"),
    column("better", pa.string(), "``higher`` or ``lower``"),
    column("images", pa.int64(), "number of images that have a value"),
    optional("mean", pa.float64(), "mean over these images"),
    optional("low", pa.float64(), "2.5 % of the bootstrap over images; methods share the resamples"),
    optional("high", pa.float64(), "97.5 % of the bootstrap over images"),
    optional("note", pa.string(), "a caveat that readers must know; null for most"),
)
"""One row per method, target kind and metric."""

OWN_WEIGHTS = "the method has weights of its own, which were not randomized with those of the model"
"""Note of metrics that compare a model with one whose weights are randomized."""


class MetricsSpec(Record):
    """``about.json`` of a folder of metric values: what they are computed from. Written first.

    Attributes:
        protocol: version of the formulas.
        run: hash of the run that made the atlas.
        suite: suite of metrics.
        methods: methods whose maps are judged.
        images: largest number of images that are sampled.
        seed: random seed of the sampling and of the metrics.
        metrics: options of each metric by its name.
    """

    protocol: int = 1
    run: str
    suite: MetricSuite
    methods: tuple[str, ...]
    images: int
    seed: int
    metrics: dict[str, dict[str, int | float | str]]
