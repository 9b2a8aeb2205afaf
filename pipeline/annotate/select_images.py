"""Choice of the images that a person annotates."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audit.agreement import compare_pairs
from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import MapReader
from schemas.annotations import ImageSelection
from schemas.errors import UsageError
from schemas.scores import is_control


@dataclass(frozen=True)
class ChosenImage:
    """A sample, and its place on the page, from 0.

    Attributes:
        shard: short name of its shard.
        ordinal: its position there.
        place: on the page.
    """

    shard: str
    ordinal: int
    place: int


def select_images(
    atlas: MapReader,
    images: int,
    selection: ImageSelection,
    target: str,
    seed: int,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> list[ChosenImage]:
    """Choose samples that have maps, in the order in which they are annotated.

    Args:
        atlas: the atlas.
        images: largest number of samples.
        selection: ``random``: a random sample in random order, of which every beginning is a random sample as well.
            ``disagreement``: those whose maps have the lowest mean rank correlation over all pairs of methods that are
            no controls, lowest first; ties at random.
        target: target kind of these maps.
        seed: random seed.
        options: where the correlations are computed.
        log: called with a sentence about samples that cannot be chosen.

    Raises:
        UsageError: no sample has maps and a key of its own, or there are no two methods to compare.
    """
    candidates = atlas.samples_with_maps(["shard", "ordinal", "key"], target)
    counts = Counter(key.removeprefix("./") for key in atlas.samples(["key"])["key"].to_pylist())
    unique = [counts[key.removeprefix("./")] == 1 for key in candidates["key"].to_pylist()]
    if repeated := len(unique) - sum(unique):
        log(f"{repeated} images share their key with others, so no truth could name them; they are left out")
    candidates = candidates.filter(pa.array(unique, pa.bool_()))
    if not len(candidates):
        raise UsageError(f"{atlas.url}: has no image with maps and a key of its own")
    order = np.random.default_rng(seed).permutation(len(candidates))
    if selection == "disagreement":
        agreement = _read_agreement(atlas, candidates, target, options)
        order = order[np.argsort(agreement[order], kind="stable")]
    chosen = candidates.take(pa.array(order[:images])).to_pylist()
    return [ChosenImage(sample["shard"], sample["ordinal"], place) for place, sample in enumerate(chosen)]


def _read_agreement(
    atlas: MapReader, candidates: pa.Table, target: str, options: ComputeOptions
) -> NDArray[np.float64]:
    """Return the agreement of the methods on each candidate, [n]; infinity where none is defined."""
    methods = [name for name in atlas.select_methods(target) if not is_control(name)]
    if len(methods) < 2:
        raise UsageError(
            f"{atlas.url}: has {len(methods)} methods besides controls, and disagreement needs at least two; "
            "use --select random"
        )
    shards = candidates["shard"].unique().to_pylist()
    by_shard = dict(
        parallel_map(partial(_shard_agreement, atlas, methods, target), shards, "agreement", options.address)
    )
    places = zip(candidates["shard"].to_pylist(), candidates["ordinal"].to_pylist(), strict=True)
    return np.array([by_shard[shard][ordinal] for shard, ordinal in places])


def _shard_agreement(atlas: MapReader, methods: list[str], target: str, name: str) -> tuple[str, NDArray[np.float64]]:
    """Return the name of a shard, and the mean rank correlation of all pairs of methods for each of its samples."""
    shard = atlas.shard(name)
    maps = {
        method: np.where(shard.has_values(method, target)[:, None, None], shard.maps(method, target), np.nan)
        for method in methods
    }
    pairs = np.stack([metrics["spearman"] for *_, metrics in compare_pairs(maps)])
    defined = np.isfinite(pairs)
    total, count = np.where(defined, pairs, 0).sum(0), defined.sum(0)
    return name, np.where(count > 0, total / np.maximum(count, 1), np.inf)
