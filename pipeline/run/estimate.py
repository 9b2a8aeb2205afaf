"""What a run will take, from what a small one took: arithmetic only.

An actor beside a GPU decodes in processes of its own while its network works, so it takes the longer of the two;
one on a core does both, one after the other. Where the GPU decodes, that is work of the GPU, as the network's is.
Writing comes after either. Shards are not divided: seven on four
actors take as long as eight.
"""

from math import ceil

from pipeline.store.zarr_arrays import metadata_objects
from schemas import layout
from schemas.bench import EndToEndTiming, Estimate
from schemas.layout import RUN
from schemas.run import RunRecord

PROCESSES = 4
"""That decode beside a GPU, unless a run is told otherwise."""
_BY_TAR = ("drift", "write")
"""Stages that take as long over a small shard as over a large one: objects and their flushes, a few images."""
_BESIDE = ("read", "decode", "collect")
"""Stages that a second target does not repeat."""


def estimate(run: RunRecord, pilot: EndToEndTiming, actors: int = 1, other: float = 0.0) -> Estimate:
    """What a planned run takes.

    Args:
        pilot: of the same network, methods, batch and precision, on the device that the run will be on.
        actors: one a GPU, or one a core.
        other: share of the images, in [0, 1], of which a target beyond those of the pilot is another class
            than the first, so that they are computed once more.
    """
    shards = [shard for shard in run.shards if shard.samples]
    images, shard_names = sum(shard.samples for shard in shards), len(shards)
    more = len(run.spec.targets) - pilot.targets
    on_gpu = pilot.decode == "gpu"
    decoding = images * pilot.decode_seconds / pilot.images
    seconds = {} if on_gpu else {"decode": decoding}
    for stage, took in pilot.seconds.items():
        if stage in _BY_TAR:
            seconds[stage] = shard_names * took
        else:
            seconds[stage] = images * took / pilot.images * (1 if stage in _BESIDE else 1 + other * max(0, more))
    by_shard = sum(seconds.get(stage, 0.0) for stage in _BY_TAR)
    network = sum(seconds.values()) - decoding - by_shard
    processes = 0 if pilot.device == "cpu" or on_gpu else PROCESSES
    decode = decoding / (processes or 1)
    work = by_shard + (max(decode, network) if processes else decode + network)
    per_tar = work / max(1, shard_names)
    planned = metadata_objects(run) | {RUN: len(run.to_bytes())}
    return Estimate(
        device=pilot.device,
        actors=actors,
        images=images,
        shards=shard_names,
        decode_processes=processes,
        sufficient_processes=ceil(decoding / max(network, 1e-9)),
        seconds=seconds,
        shard_seconds=per_tar,
        hours=ceil(shard_names / actors) * per_tar / 3600,
        actor_hours=work / 3600,
        bottleneck="decoding" if decode > network else "network",
        objects=_objects(run, shard_names) + len(planned),
        bytes=round(_bytes(run, pilot, images, shard_names)) + sum(planned.values()),
    )


def actors_for(expected: Estimate, deadline: float) -> int | None:
    """The fewest actors that are done within so many seconds; None where not even one shard is."""
    rounds = int(deadline / expected.shard_seconds) if expected.shard_seconds else expected.shards
    return ceil(expected.shards / rounds) if rounds else None


def _objects(run: RunRecord, shards: int) -> int:
    """Arrays, table and commit of each shard."""
    return shards * (sum(len(layout.arrays(method, run.extra_outputs.get(method, ()))) for method in run.methods) + 2)


def _bytes(run: RunRecord, pilot: EndToEndTiming, images: int, shards: int) -> float:
    """Of these. Maps of two targets take twice as much at most: less where they are the same maps."""
    each = pilot.bytes / pilot.images * max(1.0, len(run.spec.targets) / pilot.targets)
    return images * each + shards * pilot.commit_bytes
