"""What a run is expected to take."""

from typing import Literal

from schemas.base import Record

Limit = Literal["decoding", "network"]


class Estimate(Record):
    """What ``vitatlas plan --bench`` says of a run.

    Attributes:
        device: name of the GPU, or ``cpu``.
        actors: that share the work: one a GPU, or one a core.
        images, shards: of the run.
        decode_processes: of each actor; 0 is a thread on the actor's own core, or the GPU itself.
        enough_processes: so many of an actor, and decoding no longer limits it.
        seconds: of one actor over the whole run, by stage; ``decode`` is of one core, or of the GPU where that decodes.
        shard_seconds: of an actor over a shard of mean size.
        hours: until all actors are done, once they have started.
        actor_hours: of all actors while they are at work.
        limit: what an actor waits for: its pictures, or its network. On a CPU it is whatever takes longer.
        objects, bytes: that the atlas has in the end.
    """

    device: str
    actors: int
    images: int
    shards: int
    decode_processes: int
    enough_processes: int
    seconds: dict[str, float]
    shard_seconds: float
    hours: float
    actor_hours: float
    limit: Limit
    objects: int
    bytes: int
