"""Estimate of the time and size of a run from the benchmark of a small one. Arithmetic only.

An actor on a GPU decodes in other processes while its network computes, so the slower of the two counts; an actor on
a core does both, one after the other. If the GPU decodes, decoding adds to the time of the network. Writing adds to
either. Shards are not divided: seven on four actors take as long as eight.
"""

from math import ceil

from pipeline.store.zarr_arrays import metadata_objects
from schemas.bench import EndToEndTiming, Estimate
from schemas.layout import RUN
from schemas.run_record import RunRecord

DECODE_PROCESSES = 4
"""Default of each actor on a GPU."""
_STAGES_PER_SHARD = ("drift", "norms", "write")
"""Stages that take the same time for a small and a large shard: they write and flush objects, or compute few images."""
_STAGES_PER_IMAGE = ("read", "decode", "collect")
"""Stages that a second target kind does not repeat."""


def estimate(run: RunRecord, timing: EndToEndTiming, actors: int = 1, other_class_share: float = 0.0) -> Estimate:
    """Estimate the time and size of a planned run.

    Args:
        run: planned.
        timing: of the same network, methods, batch size and precision, on the device of the run.
        actors: their number, one for each GPU or core.
        other_class_share: share of the images, in [0, 1], for which a target kind that was not benchmarked is another
            class than the first, so that their maps are computed again.
    """
    shards = [shard for shard in run.shards if shard.samples]
    images, shard_count = sum(shard.samples for shard in shards), len(shards)
    additional_targets = max(0, len(run.spec.target_names) - timing.targets)
    on_gpu = timing.decode == "gpu"
    decode_seconds = images * timing.decode_seconds / timing.images
    seconds = {} if on_gpu else {"decode": decode_seconds}
    for stage, stage_seconds in timing.seconds.items():
        if stage in _STAGES_PER_SHARD:
            seconds[stage] = shard_count * stage_seconds
        else:
            repeats = 1 if stage in _STAGES_PER_IMAGE else 1 + other_class_share * additional_targets
            seconds[stage] = images * stage_seconds / timing.images * repeats
    per_shard = sum(seconds.get(stage, 0.0) for stage in _STAGES_PER_SHARD)
    network = sum(seconds.values()) - decode_seconds - per_shard
    processes = 0 if timing.device == "cpu" or on_gpu else DECODE_PROCESSES
    decode = decode_seconds / (processes or 1)
    work = per_shard + (max(decode, network) if processes else decode + network)
    shard_seconds = work / max(1, shard_count)
    planned_objects = metadata_objects(run) | {RUN: len(run.to_bytes())}
    return Estimate(
        device=timing.device,
        actors=actors,
        images=images,
        shards=shard_count,
        decode_processes=processes,
        sufficient_processes=ceil(decode_seconds / max(network, 1e-9)),
        seconds=seconds,
        shard_seconds=shard_seconds,
        hours=ceil(shard_count / actors) * shard_seconds / 3600,
        actor_hours=work / 3600,
        bottleneck="decoding" if decode > network else "network",
        objects=shard_count * (len(run.arrays) + 2) + len(planned_objects),  # a shard has a table and a commit, too
        bytes=round(_estimate_bytes(run, timing, images, shard_count)) + sum(planned_objects.values()),
    )


def actors_for_deadline(estimated: Estimate, deadline: float) -> int | None:
    """Return the smallest number of actors that finish in time.

    Args:
        estimated: of the run.
        deadline: in seconds.

    Returns:
        The number; None if not even one shard is done in time.
    """
    rounds = int(deadline / estimated.shard_seconds) if estimated.shard_seconds else estimated.shards
    return ceil(estimated.shards / rounds) if rounds else None


def _estimate_bytes(run: RunRecord, timing: EndToEndTiming, images: int, shards: int) -> float:
    """Return an upper bound of the size: identical maps of two target kinds take less than twice the space."""
    bytes_per_image = timing.bytes / timing.images * max(1.0, len(run.spec.target_names) / timing.targets)
    return images * bytes_per_image + shards * timing.commit_bytes
