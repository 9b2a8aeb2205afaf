"""A few maps once more, from the shards, to be compared with those that are stored."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.run.execution import Device
from pipeline.run.worker import Explained, Worker
from pipeline.store import Atlas, AtlasShard
from pipeline.store.shard_writer import normalise
from pipeline.utils.io import refuse_commands
from schemas.errors import CorruptShardError
from schemas.layout import range_name
from schemas.samples import SampleStatus

_TOLERANCE = 0.01
"""Of a map in [0, 1]: what another kind of machine may change in float32, with room to spare."""


@dataclass
class Recomputed:
    """What came of computing maps again.

    Attributes:
        maps, equal: how many, and how many of them were equal bit by bit.
        faults: a sentence for each map that is not what is computed now.
        damaged: their shards.
        notes: why others could not be computed, which says nothing of the atlas.
    """

    maps: int = 0
    equal: int = 0
    faults: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recompute(
    url: str,
    count: int,
    seed: int = 0,
    allow_pipe: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recomputed:
    """Compute the maps of samples that are drawn at random, and compare.

    Args:
        count: samples, at most; of all methods and targets.
        seed: of the draw.
        progress: told how many shards are done, and of how many.
    """
    atlas, result = Atlas.open(url), Recomputed()
    refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    samples = atlas.samples(["shard", "ordinal", "status"])
    good = samples.filter(pc.equal(samples["status"].cast("string"), SampleStatus.OK))
    drawn = good.take(np.random.default_rng(seed).permutation(len(good))[:count]).to_pylist()
    by_shard: dict[str, set[int]] = defaultdict(set)
    for sample in drawn:
        by_shard[sample["shard"]].add(sample["ordinal"])
    if by_shard:
        with Worker(url) as worker:
            for done, shard_name in enumerate(sorted(by_shard)):
                progress(done, len(by_shard))
                before = len(result.faults)
                try:
                    _compare(worker, atlas.shard(shard_name), by_shard[shard_name], result)
                except (CorruptShardError, OSError) as error:
                    result.notes.append(f"{shard_name}: cannot be computed again: {error}")
                result.damaged += [shard_name] * (len(result.faults) > before)
    return result


def once_more(
    worker: Worker, part: AtlasShard, ordinals: Collection[int], batch_size: int | None = None
) -> Iterator[Explained]:
    """What is computed now of some samples of a shard, of which no more is read than up to the last of them.

    Args:
        worker: of the atlas.
        batch_size: None is the run's, with which the same bytes are to be expected.

    Raises:
        CorruptShardError, OSError: see ``Worker.process``.
    """
    last = max(ordinals)
    with closing(worker.explain(part.commit.shard_index, ordinals, batch_size)) as found:
        for explained in found:
            yield explained
            if explained.row["ordinal"] == last:
                return


@lru_cache(1)
def worker_of(url: str, device: Device, spec_hash: str) -> Worker:
    """A worker that this process keeps for many shards. The hash tells apart what stands at a place one after another."""
    return Worker(url, device)


def _compare(worker: Worker, part: AtlasShard, ordinals: set[int], result: Recomputed) -> None:
    shard = part.commit.shard
    for row, maps, _ in once_more(worker, part, ordinals):
        ordinal, key = row["ordinal"], row["key"]
        made_of = part.samples["image_sha256"][ordinal].as_py()
        if row["status"] != SampleStatus.OK or row["image_sha256"] != made_of:
            result.notes.append(f"{shard}: {key} cannot be computed again: its picture is another now")
            continue
        for method, raw in maps.items():
            scaled, bounds, _ = normalise(raw)
            stored, stored_bounds = part.array(method)[ordinal], part.array(range_name(method))[ordinal]
            allowed = _TOLERANCE + 2 * part.commit.drift.get(method, 0.0)
            for place, target in enumerate(worker.run.spec.targets):
                result.maps += 1
                result.equal += np.array_equal(scaled[place], stored[place]) and np.array_equal(
                    bounds[place], stored_bounds[place]
                )
                off = _distance(scaled[place], bounds[place], stored[place], stored_bounds[place])
                if not off <= allowed:
                    result.faults.append(
                        f"{shard}: the {method} map of {key} ({target}) is not what is computed now, it is {off:.2g} "
                        f"of its range away; it was made on {part.commit.host}, torch {part.commit.versions['torch']}"
                    )


def _distance(
    scaled: NDArray[np.float16],
    bounds: NDArray[np.float32],
    stored: NDArray[np.float16],
    stored_bounds: NDArray[np.float32],
) -> float:
    """Largest difference of two raw maps, as a fraction of the range of the first."""
    first, second = (
        low + (high - low) * each.astype(np.float64)
        for each, (low, high) in ((scaled, bounds.astype(np.float64)), (stored, stored_bounds.astype(np.float64)))
    )
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(bounds).max())  # all there is where a map is constant
    return float(np.abs(first - second).max()) / max(float(bounds[1] - bounds[0]), rounding, 1e-30)
