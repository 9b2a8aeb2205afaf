"""Description of a network by what attribution methods need of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Literal

from pipeline.explain.readout_code import ReadoutCode
from schemas.head import Activation

LAST = "last"
"""Name of the last feature grid."""

Layout = Literal["NCHW", "NHWC", "NLC"]
"""Order of dimensions: batch, channels, height, width; L is a sequence of prefix tokens and positions by row."""


class Requirement(StrEnum):
    """What a method needs of a network, the least first."""

    IMAGES = "images"
    """logits of images, and their gradient"""
    FEATURES = "features"
    """a grid of features in front of the read-out"""
    ATTENTION = "attention"
    """blocks of attention of every token to every token: a plain vision transformer"""
    LAYERS = "layers"
    """rules for the backward pass through every layer"""


@dataclass(frozen=True)
class FeatureLayer:
    """A place in a network whose activations lie on a grid over the image.

    Attributes:
        name: in the option ``layer``: ``last``, or ``stage1`` and so on.
        path: name of the module whose output it is, or is made of by ``code``; empty for the input of ``forward_head``.
        layout: order of its dimensions.
        channels: number of channels.
        grid: rows and columns.
        prefix_tokens: tokens before the positions.
        code: what follows the module up to the logits, of the last features of a network without ``forward_head``.
        no_readout: why what follows the last features cannot be run on features alone; empty if it can.
        fills: whether a mean of the features is read as a grid that is the same everywhere, and not as a single cell.
    """

    name: str
    path: str
    layout: Layout
    channels: int
    grid: tuple[int, int]
    prefix_tokens: int = 0
    code: ReadoutCode | None = field(default=None, compare=False, repr=False)
    no_readout: str = ""
    fills: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions without the batch."""
        if self.layout == "NLC":
            return self.prefix_tokens + self.grid[0] * self.grid[1], self.channels
        return (self.channels, *self.grid) if self.layout == "NCHW" else (*self.grid, self.channels)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Structure of a network, as far as every method that applies to it depends on it.

    Attributes:
        family: name of the model's class.
        grid: rows and columns of the maps, which are those of the last feature grid.
        input_size: height and width of the images, in pixels.
        classes: length of the logits.
        classifier: class name of the head, or of the last layer.
        class_activation: turns logits into probabilities: ``softmax``, or ``sigmoid`` by a head file.
        head: digest of its head file; None for a classifier of its own.
        empty_prompts: number of embeddings of prompts that name nothing, in a zero-shot head; otherwise 0.
        missing: what methods may need and the network does not offer, with the reason.
        features: layers at which a method can be read, the last one in front of the read-out first.
        prefix_tokens: number of tokens before the patches: class token, distillation token, registers.
        readout: input of the classifier: ``mean`` is the mean of the last feature grid and nothing else, ``features``
            the grid in another way, ``other`` is not known, since the read-out cannot be run on features alone; see
            ``Anatomy`` for those of plain vision transformers.
        has_linear_readout: whether the logits are linear in that mean.
        attention_modules: paths of the modules that compute attention by a softmax, where the network offers rules for
            every layer and is no plain vision transformer.
    """

    family: str
    grid: tuple[int, int]
    input_size: tuple[int, int]
    classes: int
    classifier: str
    class_activation: Activation
    head: str | None = None
    empty_prompts: int = 0
    missing: Mapping[Requirement, str] = field(default_factory=dict, hash=False)
    features: tuple[FeatureLayer, ...] = ()
    prefix_tokens: int = 0
    readout: str = "other"
    has_linear_readout: bool = False
    attention_modules: tuple[str, ...] = ()

    @property
    def patches(self) -> int:
        """Number of cells of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def cell_edges(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Pixel rows and columns between which the cells lie, h + 1 and w + 1; cells may differ by a pixel."""
        (rows, columns), (height, width) = self.grid, self.input_size
        return (
            tuple(round(index * height / rows) for index in range(rows + 1)),
            tuple(round(index * width / columns) for index in range(columns + 1)),
        )

    @property
    def cell_size(self) -> tuple[int, int] | None:
        """Height and width of a cell in pixels; None where they differ."""
        heights, widths = ({end - start for start, end in pairwise(edges)} for edges in self.cell_edges)
        return (heights.pop(), widths.pop()) if len(heights) == len(widths) == 1 else None

    @property
    def has_constant_probability(self) -> bool:
        """Whether every probability is 1: the softmax of one class."""
        return self.classes == 1 and self.class_activation == "softmax"

    def layer(self, name: str) -> FeatureLayer | None:
        """Return the feature layer of a name; None if there is none."""
        return next((layer for layer in self.features if layer.name == name), None)
