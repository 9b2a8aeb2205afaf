"""What a library gives of an image–text model: the tower that embeds texts, and a description of the one for images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from pipeline.explain.head_place import find_place
from pipeline.explain.module_classes import NETWORKS, base_class
from schemas.errors import UnsupportedModel, UsageError
from schemas.head import HeadReadout

EXTRA = "pip install 'vit-atlas[clip]'"


@dataclass(frozen=True)
class ImageSide:
    """What a head has to know of the tower that embeds images.

    Attributes:
        read_out: features that are projected.
        width: D, width of its tokens.
        projection: see ``HeadRecord``; timm's twin of a CLIP tower has it as its own classifier.
        tensors: ``projection`` [E, D] and ``projection_bias`` [E], where the twin has none.
        activation_function: class of its MLPs' activation; empty if it has no such blocks.
        mean: of each channel; None where it is not known.
        std: of each channel; None where it is not known.
    """

    read_out: HeadReadout
    width: int
    projection: Literal["backbone head.weight", "tensor", "none"]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    activation_function: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TowerParts:
    """An image–text model as a library builds it.

    Attributes:
        model: the whole model, with ``logit_scale``, a logarithm, and for a sigmoid ``logit_bias``.
        context: number of tokens that the text tower reads, those at the ends included.
        count: number of tokens of a text, those at the ends included.
        encode: embeddings [n, E] of texts, not normalised. Texts that are too long are cut off without a word.
        image_side: describes the other tower; raises ``UsageError`` if no head file is for it.
    """

    model: nn.Module
    context: int
    count: Callable[[str], int]
    encode: Callable[[Sequence[str]], Tensor]
    image_side: Callable[[], ImageSide]


def describe_timm(trunk: Any, name: str) -> ImageSide:
    """Describe a tower that is a network of timm. If it has a classifier of its own, that is the projection.

    Of a network that is no plain vision transformer, what a head reads is the mean of its last features: see
    ``find_place``.

    Args:
        trunk: the network.
        name: of the model, for error messages.

    Raises:
        UsageError: it is neither a plain vision transformer nor a network that reads a mean.
    """
    if base_class(trunk) not in NETWORKS:
        try:
            place = find_place(trunk)
        except UnsupportedModel as refusal:
            raise UsageError(f"{name}: its image tower cannot have a head: {refusal}") from None
        has_own = isinstance(trunk.get_submodule(place.path), nn.Linear)
        return ImageSide("mean", place.width, "backbone head.weight" if has_own else "none")
    read_outs: dict[str, HeadReadout] = {"token": "token", "avg": "mean", "map": "pool"}
    read_out, blocks = read_outs.get(trunk.global_pool), trunk.blocks
    if read_out is None:
        raise UsageError(f"{name}: its image tower, {type(trunk).__name__}, reads out {trunk.global_pool or 'nothing'}")
    return ImageSide(
        read_out,
        trunk.embed_dim,
        "backbone head.weight" if isinstance(trunk.head, nn.Linear) else "none",
        activation_function=activation_name(getattr(blocks[0], "mlp", None), "act"),
    )


def activation_name(mlp: Any, attribute: str) -> str:
    """Return the class name of an activation, empty if there is none.

    Args:
        mlp: module that has it.
        attribute: its name there.
    """
    activation = getattr(mlp, attribute, None)
    return "" if activation is None else type(activation).__name__


def refuse_blind_tokenizer(tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer to which all words are one: transformers makes it of a folder without a vocabulary.

    Args:
        tokenizer: of transformers.
        source: where it is from.

    Raises:
        UsageError: it tells no words apart.
    """
    if tokenizer("cat").input_ids == tokenizer("dog").input_ids:
        raise UsageError(f"{source}: has no tokenizer that knows words; put its files there")
