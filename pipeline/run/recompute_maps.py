"""Recomputation of stored maps from the shards, for comparison."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.read import CorruptTarError, describe_source
from pipeline.run.execution import Device
from pipeline.run.sample_batches import group_by_shard, sample_batches
from pipeline.run.worker import ExplainedSample, Worker
from pipeline.store import Atlas, AtlasShard
from pipeline.store.map_reader import Location
from pipeline.store.shard_maps import ShardMaps
from pipeline.store.shard_writer import minmax_scale
from pipeline.utils.io import refuse_commands
from schemas.commits import CommitRecord
from schemas.errors import CorruptShardError
from schemas.layout import range_name
from schemas.samples import has_map

_TOLERANCE = 0.01
"""Of a map in [0, 1]: more than another kind of machine changes in float32."""


_INPUTS = ("key", "image_sha256", "label", "labels", "target_texts", "status")
"""Columns that say what a map was made from."""


@dataclass
class RecomputeResult:
    """Result of a comparison of recomputed maps with stored ones.

    Attributes:
        maps, equal: number of maps, and of those that are equal bit by bit.
        faults: a sentence for each map that differs, and for each image that has changed; and one if not a single map
            could be recomputed.
        damaged: shards with maps that differ, as in ``VerifyResult``.
        notes: reasons why maps could not be recomputed, other than a change of their images.
    """

    maps: int = 0
    equal: int = 0
    faults: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recompute(
    atlas: Atlas,
    count: int | None = None,
    seconds: float = math.inf,
    seed: int = 0,
    allow_pipe: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RecomputeResult:
    """Recompute the maps of whole batches that are chosen at random, and compare them with the stored ones.

    Args:
        atlas: the atlas.
        count: maximum number of samples; all methods and target kinds of each are computed. None is all.
        seconds: for the computation, after the network is loaded. One batch is always computed, and none is begun that
            would take longer than what is left, if it takes as long as the one before.
        seed: of the choice.
        allow_pipe: read shards from shell commands that the atlas names.
        progress: called with what is done and all that is to be done: shards, or seconds if these are limited.
    """
    result = RecomputeResult()
    refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    selections, is_limited = sample_batches(atlas, count, seed), math.isfinite(seconds)
    if not is_limited:
        selections = group_by_shard(selections)
    if not selections:
        return result
    tried = 0
    with Worker(atlas.objects.url, with_parts=True) as worker:
        started = now = time.monotonic()
        for done, (shard_name, ordinals) in enumerate(selections):
            before, now = now, time.monotonic()
            if done and now - started + (now - before) > seconds:
                break
            progress(*((int(now - started), math.ceil(seconds)) if is_limited else (done, len(selections))))
            tried += len(ordinals)
            _recompute_shard(atlas, worker, shard_name, set(ordinals), result)
    if not result.maps and not result.faults:
        result.faults.append(f"not one of {tried} samples could be computed again; {result.notes[0]}")
    return result


def _recompute_shard(
    atlas: Atlas, worker: Worker, shard_name: str, ordinals: set[int], result: RecomputeResult
) -> None:
    shard, stored = atlas.read_current(shard_name, partial(_read_shard, atlas))
    try:
        _compare_shard(worker, shard, stored, ordinals, result)
    except (CorruptShardError, OSError) as error:
        is_fault = isinstance(error, CorruptShardError) and _exists(atlas, shard)
        sentences = result.faults if is_fault else result.notes
        sentence = f"{shard_name}: cannot be computed again: {error}"
        if sentence not in sentences:  # several batches of it may be tried
            sentences.append(sentence)


def _exists(atlas: Atlas, shard: AtlasShard) -> bool:
    """Return whether the file of a shard can be reached, so that it is to blame if it cannot be read."""
    try:
        describe_source(shard.planned.url)
    except (CorruptTarError, OSError):
        return False
    return True


def recompute_rows(
    worker: Worker, shard: ShardMaps, ordinals: Collection[int], batch_size: int | None = None
) -> Iterator[ExplainedSample]:
    """Compute some samples of a shard again; the shard is read up to the last of them.

    Args:
        worker: of the atlas.
        shard: of the atlas.
        ordinals: of the samples.
        batch_size: None is that of the run, with which the bytes are expected to be the same.

    Raises:
        CorruptShardError, OSError: see ``Worker.process``.
    """
    last = max(ordinals)
    with closing(worker.explain(shard.commit.shard_index, ordinals, batch_size)) as samples:
        for sample in samples:
            yield sample
            if sample.row["ordinal"] == last:
                return


@lru_cache(1)
def cached_worker(location: Location, device: Device) -> Worker:
    """Return a worker with all methods of an atlas, which this process keeps for further shards.

    Args:
        location: of the atlas, as ``MapReader.locate`` returns it; if it was planned anew or has changed since, it gets
            another worker.
        device: to compute on.
    """
    return Worker(location.url, device, with_parts=True)


def _read_shard(atlas: Atlas, commit: CommitRecord) -> tuple[AtlasShard, dict[str, NDArray[Any]]]:
    """Return a shard, and its maps and their ranges by array."""
    shard = AtlasShard(atlas, commit)
    names = (name for method in atlas.run.methods for name in (method, range_name(method)))
    return shard, {name: shard.array(name) for name in names}


def _compare_shard(
    worker: Worker, shard: AtlasShard, arrays: Mapping[str, NDArray[Any]], ordinals: set[int], result: RecomputeResult
) -> None:
    name, damaged = shard.commit.shard, dict[str, None]()
    for row, maps, _ in recompute_rows(worker, shard, ordinals):
        ordinal, key = row["ordinal"], row["key"]
        (stored_row,) = shard.samples.slice(ordinal, 1).to_pylist()
        known = [field for field in _INPUTS if field != "labels" or stored_row[field] is not None]
        changed = [field for field in known if row.get(field) != stored_row[field]]
        if changed:
            result.faults.append(
                f"{name}: {stored_row['key']} cannot be computed again: its {' and '.join(changed)} changed in the "
                "shard; restore it"
            )
            continue
        for method, raw in maps.items():
            scaled, bounds, _ = minmax_scale(raw)
            stored, stored_bounds = arrays[method][ordinal], arrays[range_name(method)][ordinal]
            for index, target_kind in enumerate(worker.run.spec.target_names):
                if not has_map(row, index, target_kind):
                    continue
                commit = shard.commit_of(method, target_kind)
                allowed = _TOLERANCE + 2 * commit.drift.get(method, 0.0)
                result.maps += 1
                result.equal += np.array_equal(scaled[index], stored[index]) and np.array_equal(
                    bounds[index], stored_bounds[index]
                )
                distance = _max_difference(scaled[index], bounds[index], stored[index], stored_bounds[index])
                if not distance <= allowed:
                    damaged[shard.place_of(method, target_kind)] = None
                    torch_version = commit.versions["torch"]
                    result.faults.append(
                        f"{name}: the {method} map of {key} ({target_kind}) is not what is computed now, it is "
                        f"{distance:.2g} of its range away; it was made on {commit.host}, torch {torch_version}"
                    )
    result.damaged += damaged


def _max_difference(
    scaled: NDArray[np.float16],
    bounds: NDArray[np.float32],
    stored: NDArray[np.float16],
    stored_bounds: NDArray[np.float32],
) -> float:
    """Return the largest difference of two raw maps, as a fraction of the range of the first."""
    first, second = (
        low + (high - low) * values.astype(np.float64)
        for values, (low, high) in ((scaled, bounds.astype(np.float64)), (stored, stored_bounds.astype(np.float64)))
    )
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(bounds).max())  # the only range of a constant map
    return float(np.abs(first - second).max()) / max(float(bounds[1] - bounds[0]), rounding, 1e-30)
