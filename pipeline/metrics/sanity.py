"""Sanity checks: a map of a network that knows nothing, and of a class that is not there, must be another map."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.metric import Directions, Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.noise_sensitivity import noise
from pipeline.metrics.randomize_parameters import forgetting
from pipeline.metrics.similarity import similarity
from pipeline.utils.random import generator
from schemas.errors import UsageError

Maps = dict[str, NDArray[np.float64]]
"""[B, K, h, w] by method."""

BINS = 100


def histogram_entropy(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropy of the histogram of each map [..., h, w] over 100 bins of its range, in nats: 0 where it is constant."""
    flat = maps.reshape(-1, maps.shape[-2] * maps.shape[-1])
    found = np.zeros(len(flat))
    for place, values in enumerate(flat):
        share = np.histogram(values, BINS)[0] / len(values)
        share = share[share > 0]
        found[place] = -(share * np.log(share)).sum()
    return found.reshape(maps.shape[:-2])


def rise(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """(H(b) − H(a)) / H(a) of the histograms of maps a and b, [..., h, w]; NaN where a is constant."""
    before, after = histogram_entropy(first), histogram_entropy(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(before > 0, (after - before) / before, np.nan)


@dataclass(frozen=True)
class Randomisation(Metric):
    """Model parameter randomisation: the network forgets from the classifier down, all parameters in the end.

    ``mprt`` – Spearman's ρ between |map| and |map of the network so far randomised|, mean over the groups of
    ``forget.groups``; the network as it is does not count (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS
    2018). 1 is a method that does not look at the network. ``smprt`` – the same of maps that are averaged over noisy
    images, Gaussian with σ = noise · (max x − min x). ``emprt`` – relative rise of the entropy of the map's histogram,
    from the network as it is to one that has forgotten everything (both Hedström et al., A Fresh Look at Sanity Checks
    for Saliency Maps, 2024). Maps are raw. A map that says nothing may do well: these are checks, and rank nothing.

    Options:
        samples: noisy images of ``smprt``; 0 leaves it out.
        noise: see ``smprt``.
    """

    figures: ClassVar[Directions] = {"mprt": "lower", "smprt": "lower", "emprt": "higher"}
    forgets: ClassVar[bool] = True

    samples: int = 4
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.samples < 0 or self.noise < 0:
            raise UsageError(f"randomisation: {self.samples} samples of noise {self.noise}; neither can be below 0")

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(0, (depth + 4) * (1 + self.samples) * methods)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        model = deepcopy(batch.network.model)
        network, methods = batch.network.with_model(model), list(batch.maps)
        plain, smooth = _raw(network, batch, methods), self._smooth(network, batch, methods)
        stages = 0
        alike, smooth_alike = ({method: np.zeros(batch.targets.shape) for method in methods} for _ in range(2))
        last: Maps = {}
        for _ in forgetting(model, batch.seed):
            stages += 1
            last, smoothed = _raw(network, batch, methods), self._smooth(network, batch, methods)
            for method in methods:
                alike[method] += similarity(plain[method], last[method])
                if self.samples:
                    smooth_alike[method] += similarity(smooth[method], smoothed[method])
        for method in methods:
            yield MetricValue(method, "mprt", alike[method] / stages)
            yield MetricValue(method, "emprt", rise(plain[method], last[method]))
            if self.samples:
                yield MetricValue(method, "smprt", smooth_alike[method] / stages)

    def _smooth(self, network: ExplainedModel, batch: MetricBatch, methods: list[str]) -> Maps:
        """Mean maps of noisy images, whose noise is the same at every stage."""
        total = {method: np.zeros((*batch.targets.shape, *network.anatomy.grid)) for method in methods}
        sources = [generator("faith smprt", key, batch.seed) for key in batch.keys]
        for _ in range(self.samples):
            noisy = batch.images + self.noise * noise(batch.images, sources)
            found = network.explain(noisy, batch.targets, batch.keys, methods)
            for method in methods:
                total[method] += found[method].cpu().numpy() / self.samples
        return total


@dataclass(frozen=True)
class RandomLogit(Metric):
    """``random_logit`` – Spearman's ρ between |map of the class| and |map of another class|, drawn from key and seed.

    1 is a method that does not ask for the class. Source: Sixt et al., When Explanations Lie, ICML 2020.
    """

    figures: ClassVar[Directions] = {"random_logit": "lower"}

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(0, 2 * methods)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        network, methods = batch.network, list(batch.maps)
        others = other_classes(batch.targets, network.anatomy.classes, batch.keys, batch.seed)
        own = _raw(network, batch, methods)
        another = network.explain(batch.images, others, batch.keys, methods)
        for method in methods:
            yield MetricValue(method, "random_logit", similarity(own[method], another[method].cpu().numpy()))


def other_classes(targets: NDArray[np.int64], classes: int, keys: tuple[str, ...], seed: int) -> NDArray[np.int64]:
    """Another class for each target [B, K], any with the same probability; the same for the same target.

    Raises:
        UsageError: there is only one class.
    """
    if classes < 2:
        raise UsageError("random_logit: this network has only one class; leave that measure out")
    shifts = [
        [generator("faith random logit", key, seed, int(target)).integers(1, classes) for target in row]
        for key, row in zip(keys, targets, strict=True)
    ]
    return (targets + np.array(shifts, np.int64).reshape(targets.shape)) % classes


def _raw(network: ExplainedModel, batch: MetricBatch, methods: list[str]) -> Maps:
    found = network.explain(batch.images, batch.targets, batch.keys, methods)
    return {method: found[method].cpu().numpy().astype(np.float64) for method in methods}
