"""What a run costs on a network and a device: the file that ``vitatlas bench`` writes and ``plan`` reads."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record
from schemas.run import Decode, Precision

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Cost(Record):
    """What it takes to explain one batch, the forward included.

    Attributes:
        forwards: in F, one plain forward of the same batch: the median of ratios to an F timed just before.
        images_per_s: at that cost, and F as the record has it.
        peak_bytes: most memory that was allocated on the device, weights and images included; None on a
            CPU, which does not count it.
        stages: share of the time by stage, together 1: ``forward``, in which what the methods need is
            recorded, then each method. What several methods share, such as the gradient of the targets, is
            computed by the first that asks for it and counts as its share.
    """

    forwards: Positive
    images_per_s: Positive
    peak_bytes: int | None
    stages: dict[str, float]


class Pilot(Record):
    """What one actor took over a small shard, from its bytes to its commit.

    Attributes:
        device: name of the GPU, or ``cpu``, of which it had one core.
        pictures: which; time depends on their size.
        images: how many.
        targets: of each image.
        decode: where they were decoded, as in a ``RunSpec``.
        seconds: by stage, as in a ``CommitRecord``, without ``total``. Where processes decode, without ``read`` too:
            how long it waits for pictures depends on how many there are.
        decode_seconds: of one core, to read and decode them; 0 where the GPU decodes, which is part of ``seconds``.
        objects: written, the commit among them.
        bytes: of all objects but the commit.
        commit_bytes: of the commit.
    """

    device: str
    pictures: str
    images: Count
    targets: Count
    decode: Decode = "processes"
    seconds: dict[str, Seconds]
    decode_seconds: Seconds
    objects: Count
    bytes: Count
    commit_bytes: Count


class BenchRecord(Record):
    """Costs of methods, each alone and all in one pass, with one target an image; and of what is around them.

    Reading, decoding and writing are part of ``pilot`` only. Weights are random: time does not depend on them.

    Attributes:
        format: version of this record.
        model: its timm name.
        parameters, classes: how many it has.
        precision: of the network.
        grid: rows and columns of the patch grid.
        input_size: height and width in pixels.
        device: name of the GPU, or ``cpu``.
        threads: of the CPU.
        batch: images a forward.
        repeats: how many timings each median is of.
        versions: of the packages that compute.
        forward_seconds: F, the median over all its timings.
        forward_peak_bytes: of F, as in ``Cost``.
        alone: a pass of each method by itself, by the text that names it on the command line.
        together: one pass of all these methods.
        pilot: all these methods on pictures, from a shard to an atlas; None where that was not measured.
    """

    format: Literal[1] = 1
    model: str
    parameters: int
    classes: Count
    grid: tuple[int, int]
    input_size: tuple[int, int]
    device: str
    threads: Count
    precision: Precision
    batch: Count
    repeats: Count
    versions: dict[str, str]
    forward_seconds: Positive
    forward_peak_bytes: int | None
    alone: dict[str, Cost]
    together: Cost
    pilot: Pilot | None = None
