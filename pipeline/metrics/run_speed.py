"""How long the network will take, at the speed that the run of the atlas had."""

import os
from collections.abc import Iterable
from itertools import islice
from statistics import median_low

from pipeline.store import MapReader
from pipeline.utils.progress import format_time

_TIMED_SHARDS = 9
_MASKED_FORWARD = 0.55
"""Time of a masked forward, in forwards of a run, which record activations and the graph of gradients: 0.49 on the demo
network with 17 methods."""


def describe_time(atlas: MapReader, shards: Iterable[str], forwards: float) -> str:
    """Return in words how long masked forwards take in as many processes as this machine runs at once.

    Args:
        atlas: the atlas.
        shards: those that are computed.
        forwards: masked forwards of one image, of all shards together.
    """
    names = list(shards)
    commits = (atlas.record(name) for name in islice(names, _TIMED_SHARDS))
    # The median, as the first shard is slow.
    of_run = median_low(commit.seconds.get("forward", 0.0) / max(1, commit.ok) for commit in commits)
    processes = min(len(names), os.cpu_count() or 1)
    time = format_time(forwards * _MASKED_FORWARD * of_run / processes)
    return f"{time} in {processes} process{'es' if processes > 1 else ''} as fast as the run was"
