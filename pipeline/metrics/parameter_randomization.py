"""Model parameter randomization test: maps of a randomized model must be other maps."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.explain.module_classes import NETWORKS, base_class
from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.noise_sensitivity import gaussian_noise
from pipeline.metrics.similarity import abs_spearman
from pipeline.utils.random import rng_for
from schemas.errors import UsageError
from schemas.metrics import DIRECTIONS, Directions

MapsByMethod = dict[str, NDArray[np.float64]]
"""Maps [B, K, h, w] by method."""

BINS = 100
_CLASSIFIER = ("head", "head_dist")
_READOUT = ("norm", "fc_norm", "attn_pool")


@dataclass(frozen=True)
class ParameterRandomization(Metric):
    """Similarity of maps while the model's parameters are randomized from the classifier down to the embedding.

    ``mprt`` – Spearman's ρ between |map| and |map of the partly randomized model|, mean over the stages of
    ``randomize_cascading`` that ``measured_stages`` chooses; the untouched model does not count (Adebayo et al.,
    Sanity Checks for Saliency Maps, NeurIPS 2018). 1 is a method that does not depend on the model. ``smprt`` – the
    same for maps that are averaged over noisy images, Gaussian with σ = noise · (max x − min x). ``emprt`` –
    relative rise of the entropy of the map's histogram, from the untouched to the fully randomized model (both
    Hedström et al., A Fresh Look at Sanity Checks for Saliency Maps, 2024). Maps are raw. These are checks, not
    rankings: a meaningless map may pass them.

    Options:
        samples: noisy images of ``smprt``; 0 leaves it out.
        noise: see ``smprt``.
        blocks: number of measured stages among the blocks; see ``measured_stages``.
    """

    directions: ClassVar[Directions] = DIRECTIONS["parameter_randomization"]
    randomizes: ClassVar[bool] = True

    samples: int = 4
    noise: float = 0.1
    blocks: int = 4

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise UsageError(f"parameter_randomization: {self.blocks} stages among the blocks; take at least 1")
        if self.samples < 0 or self.noise < 0:
            raise UsageError(
                f"parameter_randomization: {self.samples} samples of noise {self.noise}; neither can be below 0"
            )

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(0, (self.blocks + 3) * (1 + self.samples) * methods)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        module = deepcopy(batch.model.model)
        model, methods, noisy = batch.model.with_model(module), list(batch.maps), self._add_noise(batch)
        same = batch.class_ids, batch.keys, methods
        maps, smooth_maps = _to_numpy(batch.raw_maps), _mean_maps(model.explain_copies(noisy, *same), self.samples)
        measured = measured_stages(module, self.blocks)
        similarity, smooth_similarity = (
            {method: np.zeros(batch.class_ids.shape) for method in methods} for _ in range(2)
        )
        stage_maps: MapsByMethod = {}
        for stage in randomize_cascading(module, batch.model.randomized_parameters(batch.seed)):
            if stage not in measured:
                continue
            copies = model.explain_copies([batch.images, *noisy], *same)
            stage_maps, smooth_stage_maps = _to_numpy(next(copies)), _mean_maps(copies, self.samples)
            for method in methods:
                similarity[method] += abs_spearman(maps[method], stage_maps[method])
                if self.samples:
                    smooth_similarity[method] += abs_spearman(smooth_maps[method], smooth_stage_maps[method])
        for method in methods:
            yield MetricValue(method, "mprt", similarity[method] / len(measured))
            yield MetricValue(method, "emprt", entropy_rise(maps[method], stage_maps[method]))
            if self.samples:
                yield MetricValue(method, "smprt", smooth_similarity[method] / len(measured))

    def _add_noise(self, batch: MetricBatch) -> list[Tensor]:
        """Return noisy versions of the images, the same for every stage."""
        generators = [rng_for("faith smprt", key, batch.seed) for key in batch.keys]
        return [batch.images + self.noise * gaussian_noise(batch.images, generators) for _ in range(self.samples)]


def _mean_maps(copies: Iterable[Mapping[str, Tensor]], count: int) -> MapsByMethod:
    """Return the means of the maps of a number of versions of the same images."""
    means: MapsByMethod = {}
    for maps in copies:
        for method, values in _to_numpy(maps).items():
            means[method] = means.get(method, 0.0) + values / count
    return means


def _to_numpy(maps: Mapping[str, Tensor]) -> MapsByMethod:
    return {method: values.cpu().numpy().astype(np.float64) for method, values in maps.items()}


def histogram_entropy(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the entropy, in nats, of the histogram of each map [..., h, w] over 100 bins of its range.

    It is 0 for a constant map.
    """
    flat = maps.reshape(-1, maps.shape[-2] * maps.shape[-1])
    entropies = np.zeros(len(flat))
    for index, values in enumerate(flat):
        share = np.histogram(values, BINS)[0] / len(values)
        share = share[share > 0]
        entropies[index] = -(share * np.log(share)).sum()
    return entropies.reshape(maps.shape[:-2])


def entropy_rise(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (H(b) − H(a)) / H(a) of the histogram entropies: [...], NaN where a is constant.

    Args:
        first: a, maps [..., h, w].
        second: b, maps [..., h, w].
    """
    before, after = histogram_entropy(first), histogram_entropy(second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(before > 0, (after - before) / before, np.nan)


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Return all parameter names by group, in the order of randomization.

    The order is: classifier, readout, blocks from the last, embedding. Every parameter is in one group, also those
    outside of a layer (class token, registers, positions, layer scale); empty groups are left out. In a network that is
    no plain vision transformer the blocks are its children, and those of its sequences, in the order in which it
    declares them; the last one is the classifier, the first one the embedding.
    """
    if base_class(model) not in NETWORKS:
        return _groups_in_order(model)
    blocks = len(list(model.get_submodule("blocks").children()))
    order = ["classifier", "readout", *(f"block {index}" for index in reversed(range(blocks))), "embedding"]
    groups: dict[str, list[str]] = {group: [] for group in order}
    for name, _ in model.named_parameters():
        first, _, rest = name.partition(".")
        if first == "blocks":
            group = f"block {rest.partition('.')[0]}"
        else:
            group = "classifier" if first in _CLASSIFIER else "readout" if first in _READOUT else "embedding"
        groups[group].append(name)
    return {group: names for group, names in groups.items() if names}


def _groups_in_order(model: nn.Module) -> dict[str, list[str]]:
    """Return the groups of a network that is no plain vision transformer."""
    units: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        child, *rest = name.split(".")
        is_sequence = isinstance(getattr(model, child), nn.Sequential | nn.ModuleList | nn.ModuleDict)
        unit = "" if not rest else f"{child}.{rest[0]}" if is_sequence else child
        units.setdefault(unit, []).append(name)
    bare = units.pop("", [])  # parameters of the network itself, such as a class token
    first, *blocks, last = units.values() if len(units) > 1 else ([], *units.values())
    groups = {"classifier": last}
    groups |= {f"block {index}": names for index, names in reversed(list(enumerate(blocks)))}
    return {group: names for group, names in (groups | {"embedding": [*first, *bare]}).items() if names}


def measured_stages(model: nn.Module, blocks: int) -> tuple[str, ...]:
    """Return the groups after whose randomization maps are compared: a grid over the depth, in the order of the groups.

    These are the first group, usually the classifier; of d blocks those that complete the last ⌈d k / blocks⌉, for
    k = 1 … blocks; and the embedding, when all is randomized. A stage costs as much as any other, so a deep network
    would take most of its time in between. Compare only means over the same grid.

    Args:
        model: the network.
        blocks: number of stages among the blocks; of a model with fewer blocks each is one.
    """
    groups = list(parameter_groups(model))
    in_order = [group for group in groups if group.startswith("block ")]
    depth, count = len(in_order), min(blocks, len(in_order))
    chosen = {groups[0], groups[-1], *(in_order[-(-depth * k // count) - 1] for k in range(1, count + 1))}
    return tuple(group for group in groups if group in chosen)


def randomize_cascading(model: nn.Module, randomized: Mapping[str, Tensor]) -> Iterator[str]:
    """Randomize a model in place, group after group; yield the name of each group when it is done.

    Args:
        model: the network, which is changed.
        randomized: parameters by name, see ``randomize_parameters``.
    """
    parameters = dict(model.named_parameters())
    for group, names in parameter_groups(model).items():
        for name in names:
            parameters[name].detach().copy_(randomized[name])
        yield group
