"""Signals over all images: means, advantages over the best control, and ranks, each with its bootstrap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.utils.bootstrap import percentile_interval, poisson_weights
from pipeline.utils.ranks import mean_ranks
from schemas.rank import SignalScore
from schemas.scores import is_control

Floats = NDArray[np.float64]


class Bootstrap:
    """Weights of the images: all once, and those of each replicate; the same for all signals and methods.

    Args:
        images: number of images.
        seed: of the replicates.
    """

    def __init__(self, images: int, seed: int = 0) -> None:
        self.weights = np.vstack([np.ones(images), poisson_weights(np.random.default_rng(seed), images)])

    def means(self, values: Floats) -> Floats:
        """Return the mean over the images where values [images] are not NaN: [1 + REPLICATES], the plain one first."""
        defined = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            return (self.weights @ np.where(defined, values, 0)) / (self.weights @ defined)


def interval(replicates: Floats) -> tuple[float, float]:
    """Return the 95 % interval of the replicates behind the first value, [1 + REPLICATES]."""
    return percentile_interval(replicates[1:]) or (float(replicates[0]), float(replicates[0]))


@dataclass(frozen=True)
class SignalMatrix:
    """Values of one signal.

    Attributes:
        class_ids: int64 [images], explained classes.
        values: float64 [images] by method, NaN where undefined; of the methods that the signal is defined for.
        seen: float64 [images] by method, class seen in the changed image; NaN where not tried. Empty if never.
    """

    class_ids: NDArray[np.int64]
    values: Mapping[str, Floats]
    seen: Mapping[str, Floats]

    @cached_property
    def best_control(self) -> str | None:
        """The control with the highest mean; None if there is no control."""
        means = {name: np.nanmean(values) for name, values in self.values.items() if is_control(name) and _any(values)}
        return max(means, key=lambda name: means[name], default=None)

    def score(self, method: str, bootstrap: Bootstrap) -> SignalScore | None:
        """Return the score of a method; None if it is defined for no image, or there is no control to compare with."""
        values = self.values.get(method)
        if values is None or self.best_control is None or not _any(values):
            return None
        control = self.values[self.best_control]
        means = bootstrap.means(values)
        advantage = bootstrap.means(values - control)
        if not np.isfinite(advantage[0]):
            return None
        (low, high), (advantage_low, advantage_high) = interval(means), interval(advantage)
        return SignalScore(
            mean=float(means[0]),
            low=low,
            high=high,
            images=int(np.isfinite(values).sum()),
            advantage=float(advantage[0]),
            advantage_low=advantage_low,
            advantage_high=advantage_high,
        )


def _any(values: Floats) -> bool:
    return bool(np.isfinite(values).any())


def read_matrices(table: pa.Table) -> tuple[NDArray[np.int64], dict[str, SignalMatrix]]:
    """Return the rows of the images in order, and the values of each signal.

    Args:
        table: ``schemas.rank.SIGNAL_VALUES``.
    """
    rows, first, images = np.unique(table["row"].to_numpy(), return_index=True, return_inverse=True)
    class_ids = table["class_id"].to_numpy()[first].astype(np.int64)
    methods, signals = (table[name].combine_chunks() for name in ("method", "signal"))
    values = table["value"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    seen = table["seen"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    matrices = {}
    for signal in signals.dictionary.to_pylist():
        of_signal = pc.equal(signals.cast(pa.string()), signal).to_numpy(zero_copy_only=False)
        by_method: dict[str, Floats] = {}
        seen_by_method: dict[str, Floats] = {}
        for code, method in enumerate(methods.dictionary.to_pylist()):
            places = of_signal & (methods.indices.to_numpy() == code)
            if places.any():
                by_method[method] = _place(values[places], images[places], len(rows))
                if np.isfinite(seen[places]).any():
                    seen_by_method[method] = _place(seen[places], images[places], len(rows))
        matrices[signal] = SignalMatrix(class_ids, by_method, seen_by_method)
    return rows, matrices


def _place(values: Floats, images: NDArray[np.intp], count: int) -> Floats:
    placed = np.full(count, np.nan)
    placed[images] = values
    return placed


def kappa(expected: NDArray[np.integer], seen: Floats, weights: Floats) -> Floats:
    """Compute Cohen's κ of two classes of each image (Educ. Psychol. Meas. 20, 1960), for each row of weights: [R].

    1 is full agreement, 0 that of chance: a network that sees the same class everywhere has 0. NaN where only one class
    occurs, or no image was tried.

    Args:
        expected: int [images].
        seen: float64 [images], NaN where not tried.
        weights: [R, images].
    """
    tried = np.isfinite(seen)
    first, second, weights = expected[tried], seen[tried], weights[:, tried]
    total = weights.sum(1)
    chance = np.zeros(len(weights))
    for class_id in np.intersect1d(first, second):
        chance += weights[:, first == class_id].sum(1) * weights[:, second == class_id].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed, chance = (weights @ (first == second)) / total, chance / total**2
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def rank_shares(
    matrices: Mapping[str, SignalMatrix], methods: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Floats]:
    """Return the mean rank of each method over signals, as a share from 0 (last) to 1 (first): [1 + REPLICATES] each.

    Args:
        matrices: signals that take part.
        methods: all rows of the ranking, with controls; those without a value in any signal are left out.
        bootstrap: weights of the images.
    """
    shares: dict[str, list[Floats]] = {}
    for matrix in matrices.values():
        names = [name for name in methods if name in matrix.values and _any(matrix.values[name])]
        if len(names) < 2:
            continue
        means = np.stack([bootstrap.means(matrix.values[name]) for name in names], 1)
        ranks = (mean_ranks(means) - 1) / (len(names) - 1)
        for place, name in enumerate(names):
            shares.setdefault(name, []).append(ranks[:, place])
    return {name: np.mean(values, axis=0) for name, values in shares.items()}
