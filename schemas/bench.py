"""What methods cost on a network and a device: the file that ``vitatlas bench`` writes and ``plan`` reads."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.record import Record
from schemas.run import Precision

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
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


class BenchRecord(Record):
    """Costs of methods, each alone and all in one pass, with one target an image.

    Reading, decoding and writing are no part of it. Weights and images are random: time does not depend on them.

    Attributes:
        model: its timm name.
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
