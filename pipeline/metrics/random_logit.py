"""Random logit test: a map of another class must be another map."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.similarity import abs_spearman
from pipeline.utils.random import rng_for
from schemas.errors import UsageError
from schemas.metrics import DIRECTIONS, Directions


@dataclass(frozen=True)
class RandomLogit(Metric):
    """``random_logit`` – Spearman's ρ between |map of the class| and |map of another class|, sampled from key and seed.

    1 is a method that does not depend on the class. Source: Sixt et al., When Explanations Lie, ICML 2020.
    """

    directions: ClassVar[Directions] = DIRECTIONS["random_logit"]

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(0, 2 * methods)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        model, methods = batch.model, list(batch.maps)
        others = sample_other_classes(batch.class_ids, model.anatomy.classes, batch.keys, batch.seed)
        other_maps = model.explain(batch.images, others, batch.keys, methods)
        for method in methods:
            similarity = abs_spearman(batch.raw_maps[method].double().cpu().numpy(), other_maps[method].cpu().numpy())
            yield MetricValue(method, "random_logit", similarity)


def sample_other_classes(
    class_ids: NDArray[np.int64], classes: int, keys: tuple[str, ...], seed: int
) -> NDArray[np.int64]:
    """Sample another class for each class id, uniformly; the same one for the same class id of an image.

    Args:
        class_ids: int64 [B, K].
        classes: number of classes of the model.
        keys: sample keys, which seed the choice.
        seed: further seed.

    Returns:
        Class ids, int64 [B, K].

    Raises:
        UsageError: there is only one class.
    """
    if classes < 2:
        raise UsageError("random_logit: the model has only one class; leave out this metric")
    shifts = [
        [rng_for("faith random logit", key, seed, int(class_id)).integers(1, classes) for class_id in row]
        for key, row in zip(keys, class_ids, strict=True)
    ]
    return (class_ids + np.array(shifts, np.int64).reshape(class_ids.shape)) % classes
