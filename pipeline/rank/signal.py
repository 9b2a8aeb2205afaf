"""Base class of signals: what tells without truth whether a map shows where the network finds a class."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.explain import Network
from pipeline.metrics.metric import MetricBatch, MetricCost

NONE_SEEN = -1
"""Class that stands for none."""
NOT_TRIED = -2
"""Stands for an image that the network was not tried on."""


class SignalValue(NamedTuple):
    """Values of a signal for the maps of one method.

    Attributes:
        method: name of the maps.
        values: float64 [B], NaN where the signal is not defined.
        seen: int64 [B], class that the network sees in the changed images, ``NONE_SEEN`` or ``NOT_TRIED``; None if the
            signal does not run the network on changed images.
    """

    method: str
    values: NDArray[np.float64]
    seen: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Signal(ABC):
    """Base class of signals. The fields of a subclass are its options.

    To add one, write it into ``pipeline/rank/signals`` and add it to ``pipeline.rank.registry.SIGNALS``. The class
    docstring gives formula and source.

    Class attributes:
        name: its name.
        title: what is high for a good method.
        checked: what the network must recognise for the signal to be valid; completes "the network recognises …".
        is_check: it tells no good methods from bad ones, and only finds those that fail.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    checked: ClassVar[str]
    is_check: ClassVar[bool] = False

    def is_defined(self, anatomy: Network) -> bool:
        """Return whether the signal exists for a network."""
        return True

    @abstractmethod
    def cost(self, methods: int) -> MetricCost:
        """Return the largest cost of a number of methods, for one image."""

    @abstractmethod
    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        """Yield the values of all methods that the signal is defined for, from maps of one target."""
