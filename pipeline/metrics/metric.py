"""Base class of metrics, and the batch of images and maps that they judge."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.explain import MapBatch
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.masked_forward import (
    Baseline,
    MaskedForwardCache,
    Predictions,
    RemovalOrder,
    make_baseline,
    removal_masks,
)
from schemas.metrics import MAP_FORWARDS, Directions


@dataclass(frozen=True)
class MetricCost:
    """Upper bound of the work for one image and one class.

    Attributes:
        forwards: images with replaced patches that pass the model.
        explanations: maps that are computed.
    """

    forwards: int = 0
    explanations: int = 0

    def __add__(self, other: "MetricCost") -> "MetricCost":
        return MetricCost(self.forwards + other.forwards, self.explanations + other.explanations)

    def __str__(self) -> str:
        return f"{self.forwards:,} masked forwards and {self.explanations:,} maps"

    @property
    def in_forwards(self) -> float:
        """Expected time, in forwards of one image."""
        return self.forwards + MAP_FORWARDS * self.explanations

    def __mul__(self, count: float) -> "MetricCost":
        return MetricCost(round(self.forwards * count), round(self.explanations * count))


class MetricValue(NamedTuple):
    """Values of one metric for the maps of one method: float64 [B, K], NaN where undefined."""

    method: str
    metric: str
    values: NDArray[np.float64]


@dataclass
class MetricBatch:
    """Images with their maps from an atlas.

    Attributes:
        model: model that the maps were computed for.
        images: float [B, 3, H, W], normalized, on the device of the model.
        keys: sample keys; random numbers of an image are seeded by its key.
        labels: int64 [B], −1 where there is none.
        class_ids: int64 [B, K], explained classes.
        maps: float64 [B, K, h, w] in [0, 1], by method.
        seed: seed of all random numbers.
    """

    model: ExplainedModel
    images: Tensor
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    maps: Mapping[str, NDArray[np.float64]]
    seed: int = 0

    @cached_property
    def masked_forwards(self) -> MaskedForwardCache:
        """Predictions for images with replaced patches, shared by all metrics."""
        model = self.model
        fill = partial(
            make_baseline, images=self.images, mean=model.mean, std=model.std, keys=self.keys, seed=self.seed
        )
        return MaskedForwardCache(model.mixer, self.images, self.class_ids, fill)

    @cached_property
    def raw_maps(self) -> MapBatch:
        """Maps of the images as the model gives them now, raw, shared by all metrics."""
        return self.model.explain(self.images, self.class_ids, self.keys, list(self.maps))

    def predict_removal(
        self, baseline: Baseline, order: RemovalOrder, fractions: NDArray[np.float64]
    ) -> dict[str, Predictions]:
        """Predict while patches are replaced in the order of each method's maps.

        Args:
            baseline: content of replaced patches.
            order: patches that are replaced first.
            fractions: float64 [S] in [0, 1], fractions of the patches that are replaced; rounded to whole patches.

        Returns:
            Predictions [B, K, S] by method.
        """
        counts = np.rint(fractions * self.model.anatomy.patches).astype(np.int64)
        masks = [removal_masks(maps, order, counts) for maps in self.maps.values()]
        predictions = self.masked_forwards.predict(baseline, np.concatenate(masks, 2))
        columns = [np.split(column, len(masks), 2) for column in predictions]
        return {method: Predictions(*split) for method, *split in zip(self.maps, *columns, strict=True)}


@dataclass(frozen=True)
class Metric(ABC):
    """Base class of metrics. The fields of a subclass are its options.

    To add a metric, write its only subclass of ``Metric`` into ``pipeline/metrics/<name>.py`` and register the name
    with its directions in ``schemas.metrics``. The class docstring gives formulas, baseline and source.

    Class attributes:
        directions: names of the values for each map, and whether higher or lower is better.
        randomizes: True if the model's parameters are randomized. Methods with weights of their own keep these.
    """

    directions: ClassVar[Directions]
    randomizes: ClassVar[bool] = False

    @abstractmethod
    def cost(self, methods: int) -> MetricCost:
        """Return the largest cost of a number of methods, for one image and one class."""

    @abstractmethod
    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        """Yield all values of all methods."""
