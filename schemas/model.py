"""The network of a run, as the plan records it, and how its weights became its own."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Count, Finite, GrowingRecord, Record
from schemas.head import AttachedHead
from schemas.registers import AttachedRegisters

Size = Annotated[int, Field(ge=1, le=1 << 16)]
"""A length in pixels, patches, classes or rows of a chunk."""


class PositionsRecord(Record):
    """Resampling of the positions in a checkpoint to another image size.

    Attributes:
        from_grid: rows and columns of the checkpoint.
        to_grid: rows and columns of the network.
        interpolation: ``bicubic`` of absolute positions, ``linear`` of tables of relative positions.
        antialias: whether it smooths before it samples down.
    """

    from_grid: tuple[Size, Size]
    to_grid: tuple[Size, Size]
    interpolation: Literal["bicubic", "linear"]
    antialias: bool


class ConversionRecord(Record):
    """How the weights of a file became those of the network.

    Attributes:
        layout: library and network whose names the tensors had.
        left_out: tensors that the logits do not depend on; a number in a name is ``*``.
        epsilon: of the norms, as the layout or its ``config.json`` gives it.
        activation: of the MLPs, in timm's terms.
        positions: resampling of positions; None where they are those of the file.
    """

    layout: str
    left_out: tuple[str, ...] = ()
    epsilon: float | None = None
    activation: str | None = None
    positions: PositionsRecord | None = None

    @property
    def summary(self) -> str:
        """The conversion in one line."""
        parts = [f"names of {self.layout}"]
        parts += [f"norms with epsilon {self.epsilon:g}"] if self.epsilon is not None else []
        parts += [f"activation {self.activation}"] if self.activation else []
        parts += [f"left out {', '.join(self.left_out)}"] if self.left_out else []
        if self.positions:
            sizes = ["×".join(map(str, grid)) for grid in (self.positions.from_grid, self.positions.to_grid)]
            smooth = " with antialiasing" if self.positions.antialias else ""
            parts.append(f"positions resampled from {' to '.join(sizes)} ({self.positions.interpolation}{smooth})")
        return "; ".join(parts)


class ModelRecord(GrowingRecord):
    """The network at the time of planning.

    Attributes:
        name: name in timm.
        network: class of the network.
        options: architecture and arguments of its constructor, where a ``local-dir:`` folder states them.
        parameters: number of parameters.
        classes: number of classes.
        prefix_tokens: number of tokens before the patches, such as the class token and registers.
        readout: input of the classifier: ``token``, ``mean``, ``pool`` (an attention pooler), or ``token+mean``.
        weights: SHA-256 over names, shapes, dtypes and bytes of all tensors, so that it is the same for
            every file format, and over what head file and test-time registers add.
        input_size: height and width in pixels.
        grid: rows and columns of the patch grid.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel, for pixels in [0, 1].
        interpolation: interpolation of the resize, in timm's terms.
        crop_pct: crop fraction of the network's own evaluation transform.
        crop_mode: crop mode of the network's own evaluation transform.
        head: the head file; None for a classifier of the network's own.
        conversion: how weights under other names became timm's; None where they had these.
        registers: test-time registers, with which it is another network; None where it has none.
    """

    later_fields = frozenset({"registers"})
    name: str
    network: str
    options: dict[str, object] = Field(default={})
    weights: str
    parameters: Count
    classes: Annotated[int, Field(ge=1, lt=1 << 31)]
    input_size: tuple[Size, Size]
    grid: tuple[Size, Size]
    prefix_tokens: Count
    readout: str
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Finite, Finite, Finite]
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]
    crop_pct: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    crop_mode: str
    head: AttachedHead | None = None
    conversion: ConversionRecord | None = None
    registers: AttachedRegisters | None = None

    @property
    def details(self) -> dict[str, str]:
        """What files beside its weights made of it, one line each, by a word of at most eight letters."""
        found = {"head": self.head, "register": self.registers, "weights": self.conversion and self.conversion.summary}
        return {name: str(value) for name, value in found.items() if value is not None}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class; empty where no head file names them."""
        return self.head.classes if self.head else ()

    @property
    def has_constant_probability(self) -> bool:
        """Whether every probability is 1: the softmax of one class."""
        return self.classes == 1 and self.head is not None and self.head.activation == "softmax"
