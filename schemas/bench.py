"""Measured and estimated costs: the file that ``vitatlas bench`` writes, and the estimate that ``plan`` makes of it."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record
from schemas.run import Decode, Precision

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Bottleneck = Literal["decoding", "network"]


class MethodCost(Record):
    """Cost of one pass over a batch, the forward included.

    Attributes:
        forwards: cost in F, one plain forward of the same batch: the median of the ratios to an F timed just before.
        images_per_s: throughput at that cost, with F as in the ``BenchRecord``.
        peak_bytes: most memory allocated on the device, weights and images included; None on a CPU.
        stages: share of the time by stage, sum 1: ``forward``, which records what the methods need, then each method.
            Work that methods share, such as the gradient of the targets, counts for the first method that needs it.
    """

    forwards: Positive
    images_per_s: Positive
    peak_bytes: int | None
    stages: dict[str, float]


class EndToEndTiming(Record):
    """Time of one actor for a small shard, from its bytes to its commit.

    Attributes:
        device: name of the GPU, or ``cpu``, of which it had one core.
        source: name of the shard, or the size of generated images; time depends on the size of the images.
        images: number of images.
        targets: targets per image.
        decode: where images were decoded, as in ``RunSpec``.
        seconds: time by stage, as in ``CommitRecord``, without ``total``. Where processes decode, without ``read`` too:
            the waiting time depends on the number of processes.
        decode_seconds: time of one core to read and decode the images; 0 where the GPU decodes (part of ``seconds``).
        objects: number of objects written, the commit included.
        bytes: size of all objects but the commit.
        commit_bytes: size of the commit.
    """

    device: str
    source: str
    images: Count
    targets: Count
    decode: Decode = "processes"
    seconds: dict[str, Seconds]
    decode_seconds: Seconds
    objects: Count
    bytes: Count
    commit_bytes: Count


class BenchRecord(Record):
    """Cost of methods with one target per image: each alone, all in one pass, and end to end.

    Reading, decoding and writing are part of ``end_to_end`` only. The weights are random: time does not depend on them.

    Attributes:
        format: version of this record.
        model: timm name of the network.
        parameters: number of parameters.
        classes: number of classes.
        head: digest of the head file; None for a classifier of the network's own.
        grid: rows and columns of the patch grid.
        input_size: height and width in pixels.
        device: name of the GPU, or ``cpu``.
        threads: CPU threads.
        precision: precision of the network.
        batch_size: images per forward.
        repeats: number of timings behind each median.
        versions: versions of the packages that compute.
        forward_seconds: F, the median over all its timings.
        forward_peak_bytes: peak memory of F, as in ``MethodCost``.
        per_method: cost of a pass with one method only, by the text that names it on the command line.
        all_methods: cost of one pass with all these methods.
        end_to_end: timing of all these methods from a shard to an atlas; None where it was not measured.
    """

    format: Literal[1] = 1
    model: str
    parameters: int
    classes: Count
    head: str | None = None
    grid: tuple[int, int]
    input_size: tuple[int, int]
    device: str
    threads: Count
    precision: Precision
    batch_size: Count
    repeats: Count
    versions: dict[str, str]
    forward_seconds: Positive
    forward_peak_bytes: int | None
    per_method: dict[str, MethodCost]
    all_methods: MethodCost
    end_to_end: EndToEndTiming | None = None


class Estimate(Record):
    """Expected time and size of a run, as ``vitatlas plan --bench`` prints them.

    Attributes:
        device: name of the GPU, or ``cpu``.
        actors: number of actors that share the work: one per GPU, or one per core.
        images: images of the run.
        shards: shards of the run.
        decode_processes: decoding processes of each actor; 0 is a thread on the actor's own core, or the GPU itself.
        sufficient_processes: number of decoding processes per actor at which decoding is no longer the bottleneck.
        seconds: time of one actor over the whole run, by stage; ``decode`` is of one core, or of the GPU.
        shard_seconds: time of an actor for a shard of mean size.
        hours: time until all actors are done, once they have started.
        actor_hours: sum of the hours of all actors.
        bottleneck: what an actor waits for: decoding, or the network. On a CPU, the slower of the two.
        objects: number of objects of the finished atlas.
        bytes: size of the finished atlas.
    """

    device: str
    actors: int
    images: int
    shards: int
    decode_processes: int
    sufficient_processes: int
    seconds: dict[str, float]
    shard_seconds: float
    hours: float
    actor_hours: float
    bottleneck: Bottleneck
    objects: int
    bytes: int
