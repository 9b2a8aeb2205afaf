"""What a measure is: some figures of every map of a batch of images."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.masked_forward import Copies, baseline
from schemas.metrics import Direction

Directions = Mapping[str, Direction]


@dataclass(frozen=True)
class MetricCost:
    """What a measure asks of the network for an image and a target, at most: images that are computed again cost less.

    Attributes:
        forwards: copies that it is shown.
        explanations: maps that are made.
    """

    forwards: int = 0
    explanations: int = 0

    def __add__(self, other: "MetricCost") -> "MetricCost":
        return MetricCost(self.forwards + other.forwards, self.explanations + other.explanations)

    def __str__(self) -> str:
        return f"{self.forwards:,} forwards of copies and {self.explanations:,} maps"

    def __mul__(self, number: int) -> "MetricCost":
        return MetricCost(self.forwards * number, self.explanations * number)


class MetricValue(NamedTuple):
    """A figure of the maps of one method: float64 [B, K], NaN where it is not defined."""

    method: str
    figure: str
    values: NDArray[np.float64]


@dataclass
class MetricBatch:
    """Images with the maps that an atlas has of them.

    Attributes:
        network: that they were made of.
        images: [B, 3, H, W], normalised, on its device.
        keys: a name for each, from which what is drawn at random takes its seed.
        labels: int64 [B], −1 where there is none.
        targets: int64 [B, K], the classes that are explained.
        maps: float64 [B, K, h, w] in [0, 1], by method.
        seed: of what is drawn.
    """

    network: ExplainedModel
    images: Tensor
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    targets: NDArray[np.int64]
    maps: Mapping[str, NDArray[np.float64]]
    seed: int = 0

    @cached_property
    def copies(self) -> Copies:
        """Copies of these images with patches replaced, shared by all measures."""
        network = self.network
        fill = partial(baseline, images=self.images, mean=network.mean, std=network.std, keys=self.keys, seed=self.seed)
        return Copies(network.pieces, self.images, self.targets, fill)


@dataclass(frozen=True)
class Metric(ABC):
    """Base of all measures, whose fields are their options.

    To add one: subclass in a new file, name it in ``pipeline.metrics.registry`` and its figures in ``schemas.metrics``.
    The class docstring gives formulas, baseline and source.

    Class attributes:
        figures: what it gives of each map, and whether higher or lower is better.
        forgets: whether the network forgets for it. A method with weights of its own keeps these.
    """

    figures: ClassVar[Directions]
    forgets: ClassVar[bool] = False

    @abstractmethod
    def cost(self, methods: int, depth: int) -> MetricCost:
        """What it asks of a network of so many blocks, for one image and target, of so many methods."""

    @abstractmethod
    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        """All its figures of all methods."""
