"""Does the run give the same maps again, and does it depend on how many pictures are computed together?"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.run.execution import Device
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas
from pipeline.store.shard_writer import normalise
from pipeline.utils.io import refuse_commands
from schemas.audit_tables import OTHER_BATCH, REPRODUCIBILITY, SAME_BATCH
from schemas.errors import CorruptShardError
from schemas.samples import SampleStatus

Drawn = tuple[str, tuple[int, ...]]
"""A shard, and ordinals of its samples."""
_Row = dict[str, Any]


def build_reproducibility_table(
    url: str,
    rows: int = 256,
    methods: Sequence[str] = (),
    seed: int = 0,
    device: Device = "auto",
    address: str | None = None,
    allow_pipe: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Compute samples again from the shards, as the run did and with another batch size, and compare all their maps.

    What is drawn is batches of the run, from all finished shards: a sample gets the same bytes only among those that it
    was computed with, so that single samples would cost as many times more as a batch has samples. The other batch is
    of one sample, which nothing beside it can touch; of two, where the run's was of one.

    Args:
        rows: samples that have maps, at most.
        methods: that are compared; empty is all.
        address: of a Ray cluster, see ``parallel_map``.
        say: told what is to be computed, and which shards and samples cannot be.

    Returns:
        ``schemas.audit_tables.REPRODUCIBILITY``: for each kind, the network and then the methods by target.

    Raises:
        UsageError: no such method, or no finished shard.
        SpecMismatchError: the network is another now.
    """
    atlas = Atlas.open(url)
    refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    for target in atlas.run.spec.targets:
        atlas.require(target, chosen)
    sizes = {SAME_BATCH: atlas.run.spec.batch_size, OTHER_BATCH: 2 if atlas.run.spec.batch_size == 1 else 1}
    drawn = _draw(atlas, rows, seed)
    number = sum(len(ordinals) for _, ordinals in drawn)
    say(f"{number} samples of {len(drawn)} shards are computed twice, by {len(atlas.methods)} methods")
    found: list[_Row] = []
    for compared, notes in parallel_map(
        partial(_of_shard, url, device, chosen, sizes), drawn, "compute again", address, gpu=True
    ):
        found += compared
        for note in notes:
            say(note)
    whose = [(None, None), *((method, target) for method in chosen for target in atlas.run.spec.targets)]
    table = [
        {"kind": kind, "batch_size": size, "method": method, "target": target, "sampled": number}
        | _summary([each for each in found if (each["kind"], each["method"], each["target"]) == (kind, method, target)])
        for kind, size in sizes.items()
        for method, target in whose
    ]
    return pa.Table.from_pylist(table, schema=REPRODUCIBILITY)


def _draw(atlas: Atlas, count: int, seed: int) -> list[Drawn]:
    """Batches at random, until they hold so many samples that have maps."""
    samples, slot = atlas.samples(["row", "status"]), atlas.run.slot
    rows = samples.filter(pc.equal(samples["status"].cast("string"), SampleStatus.OK))["row"].to_numpy()
    batch = rows // slot * slot + rows % slot // atlas.run.spec.batch_size
    batches, whose = np.unique(batch, return_inverse=True)
    turn = np.random.default_rng(seed).permutation(len(batches))[whose]
    drawn = np.sort(rows[np.lexsort((rows, turn))[:count]])
    by_shard: dict[str, list[int]] = defaultdict(list)
    for index, ordinal in zip(*(each.tolist() for each in np.divmod(drawn, slot)), strict=True):
        by_shard[atlas.run.shards[index].name].append(ordinal)
    return [(shard, tuple(ordinals)) for shard, ordinals in by_shard.items()]


def _of_shard(
    url: str, device: Device, methods: Sequence[str], sizes: dict[str, int], drawn: Drawn
) -> tuple[list[_Row], list[str]]:
    """Comparisons of all maps of samples of a shard, and why there are none of others."""
    from pipeline.run.recompute import once_more, worker_of  # torch, which few who audit need

    shard, ordinals = drawn
    atlas = Atlas.open(url)
    worker, part = worker_of(url, device, atlas.run.spec_hash), atlas.shard(shard)
    samples = part.samples.take(list(ordinals)).to_pylist()
    stored = {method: part.array(method)[list(ordinals)] for method in methods}
    compared: list[_Row] = []
    notes: dict[str, None] = {}
    for kind, size in sizes.items():
        try:
            for place, (now, raw, _) in enumerate(once_more(worker, part, ordinals, size)):
                before = samples[place]
                if now["status"] != SampleStatus.OK or now["image_sha256"] != before["image_sha256"]:
                    notes[f"{shard}: {before['key']} cannot be computed again: its picture is another now"] = None
                    continue
                compared.append({"kind": kind} | _network(before, now))
                again = {method: normalise(raw[method])[0] for method in methods}
                maps = _maps({method: stored[method][place] for method in methods}, again, atlas.run.spec.targets)
                compared += [{"kind": kind} | each for each in maps]
        except (CorruptShardError, OSError) as error:
            notes[f"{shard}: cannot be computed again: {error}"] = None
    return compared, list(notes)


def _network(before: _Row, now: _Row) -> _Row:
    # The table has it in float32.
    off = abs(float(np.float32(now["probability"])) - before["probability"])
    return {
        "method": None,
        "target": None,
        "equal_share": before["prediction"] == now["prediction"],
        "max_difference": off,
        "mean_difference": off,
        "spearman": np.nan,
    }


def _maps(
    before: dict[str, NDArray[np.float16]], now: dict[str, NDArray[np.float16]], targets: Sequence[str]
) -> Iterator[_Row]:
    """Comparisons of maps [K, h, w] of a sample, by method."""
    from pipeline.metrics.similarity import spearman

    for method, stored in before.items():
        ranks = spearman(stored.reshape(len(targets), -1), now[method].reshape(len(targets), -1))
        off = np.abs(stored.astype(np.float64) - now[method].astype(np.float64))
        for place, target in enumerate(targets):
            yield {
                "method": method,
                "target": target,
                "equal_share": np.array_equal(stored[place], now[method][place]),
                "max_difference": off[place].max(),
                "mean_difference": off[place].mean(),
                "spearman": ranks[place],
            }


def _summary(compared: Sequence[_Row]) -> _Row:
    ranks = [each["spearman"] for each in compared if np.isfinite(each["spearman"])]
    known = {
        "equal_share": [each["equal_share"] for each in compared],
        "mean_difference": [each["mean_difference"] for each in compared],
        "mean_spearman": ranks,
    }
    # Sums that do not depend on the order in which shards come.
    means = {name: math.fsum(values) / len(values) if values else None for name, values in known.items()}
    return means | {
        "recomputed": len(compared),
        "max_difference": max((each["max_difference"] for each in compared), default=None),
        "min_spearman": min(ranks, default=None),
    }
