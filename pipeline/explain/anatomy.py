"""Description of a plain vision transformer, as far as attribution methods depend on it."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from pipeline.explain.classifier_faults import NO_CLASSIFIER, classes_fault
from pipeline.explain.head_modules import LinearHead, TokenAndMean, ZeroShotHead, head_activation
from pipeline.explain.module_classes import (
    ACTIVATIONS,
    ATTENTIONS,
    BLOCKS,
    MLPS,
    NETWORKS,
    NORMS,
    Part,
    base_class,
    class_names,
    find_fault,
    known_parts,
)
from pipeline.explain.network import LAST, FeatureLayer, Network, Requirement
from pipeline.explain.register_modules import RegisterBlocks
from schemas.errors import UnsupportedModel

Readout = Literal["token", "mean", "pool", "token+mean"]
Positions = Literal["absolute", "rotary", "relative"]


class NoGlobalAttention(UnsupportedModel):
    """A network that is no plain vision transformer, with the ``reason``."""

    def __init__(self, model: nn.Module, reason: str) -> None:
        super().__init__(f"{type(model).__name__} is no plain vision transformer: {reason}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Anatomy(Network):
    """Structure of a plain vision transformer: global attention in every block.

    Attributes:
        patch: height and width of a patch, in pixels. Grid times patch may be smaller than the images: timm
            ignores the rest at the right and lower edge.
        registers: number of test-time registers, tokens behind the patches in the blocks only; see ``Registers``.
        readout: input of the classifier: ``token`` is the class token, ``mean`` the mean of the patch tokens,
            ``pool`` the output of an attention pooler with one latent query, ``token+mean`` class token and mean
            concatenated (by a head file).
        read_tokens: number of prefix tokens that the classifier reads: 1, 2 for a distilled model, otherwise 0.
        depth: number of blocks.
        heads: attention heads per block.
        width: token dimension.
        embedding: class name of the patch embedding.
        attention: class name of the attention, preceded by ``gated`` if an output is gated.
        has_plain_attention_output: whether the output of every attention goes to its projection as it is, without a
            gate or a norm.
        norm: class name of the norms; of several, like those below, the names joined by a comma.
        mlp: class name of the MLPs.
        activation: class name of the activation functions.
        positions: position encoding: ``absolute`` is added to the tokens, ``rotary`` rotates queries and keys,
            ``relative`` is added to the attention scores.
    """

    patch: tuple[int, int]
    registers: int
    readout: Readout
    read_tokens: int
    depth: int
    heads: int
    width: int
    embedding: str
    attention: str
    has_plain_attention_output: bool
    norm: str
    mlp: str
    activation: str
    positions: Positions

    @property
    def cell_edges(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Pixel rows and columns between which the patches lie, h + 1 and w + 1."""
        (rows, columns), (height, width) = self.grid, self.patch
        return tuple(range(0, rows * height + 1, height)), tuple(range(0, columns * width + 1, width))

    @property
    def patch_tokens(self) -> slice:
        """Places of the patches among the tokens of a block, or of an attention pooler."""
        return slice(self.prefix_tokens, self.prefix_tokens + self.patches)

    @property
    def read_places(self) -> slice:
        """Places of the tokens of a block that final norm and read-out see: all but test-time registers."""
        return slice(0, self.prefix_tokens + self.patches)

    @property
    def tokens(self) -> int:
        """Number of tokens of a block."""
        return self.prefix_tokens + self.patches + self.registers

    @property
    def cell_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.patch


def describe_transformer(model: nn.Module) -> Anatomy:
    """Describe a plain vision transformer of timm.

    Raises:
        NoGlobalAttention: it is none.
        UnsupportedModel: it is one, but a part of it was changed, or it has no classes.
    """
    family = type(model).__name__
    parts: Any = model

    def refuse(reason: str) -> UnsupportedModel:
        return UnsupportedModel(f"{family} cannot be explained: {reason}")

    if reason := _other_network(model):
        raise NoGlobalAttention(model, reason)
    blocks = list(parts.blocks)
    if not blocks:
        raise refuse("it has no blocks")
    for index, block in enumerate(blocks):
        if reason := _unsupported_block(block):
            message = f"block {index} ({type(block).__name__}) {reason}"
            raise NoGlobalAttention(model, message) if _is_of_timm(block) else refuse(message)
    head = getattr(parts, "head", None)
    if head is None or isinstance(head, nn.Identity):
        raise refuse(NO_CLASSIFIER)
    known = known_parts(model)
    for part in known:
        if part.cls not in part.allowed and part.cls.__module__.startswith("timm."):  # an architecture, not a change
            raise NoGlobalAttention(model, f"the methods have no rules for its {part.path}, a {part.cls.__name__}")
    if reason := find_fault(model, known):
        raise refuse(reason)
    classes = _count_classes(known, refuse)
    if reason := classes_fault(parts, classes):
        raise refuse(reason)
    if reason := _unsupported_patches(parts.patch_embed):
        raise refuse(reason)
    channels = getattr(getattr(parts.patch_embed, "proj", None), "in_channels", 3)
    if channels != 3 and not hasattr(parts.patch_embed, "backbone"):
        raise refuse(f"it takes {channels} channels; only RGB is supported")
    readout, read_tokens = _readout(parts)
    grid = tuple(int(side) for side in parts.patch_embed.grid_size)
    size = tuple(int(side) for side in parts.patch_embed.img_size)
    patch = tuple(int(side) for side in parts.patch_embed.patch_size)
    if hasattr(parts.patch_embed, "backbone"):  # the backbone makes the patches
        patch = tuple(side // count for side, count in zip(size, grid, strict=True))
    is_gated = any(getattr(block.attn, "gate", None) is not None for block in blocks)
    last = f"blocks.{len(blocks) - 1}.norm1"
    prefix_tokens = int(parts.num_prefix_tokens)
    return Anatomy(
        family=family,
        grid=(grid[0], grid[1]),
        missing={Requirement.LAYERS: "there is no rule for the gate of an attention"} if is_gated else {},
        features=(FeatureLayer(LAST, last, "NLC", int(parts.embed_dim), (grid[0], grid[1]), prefix_tokens),),
        has_linear_readout=readout == "mean" and isinstance(parts.fc_norm, nn.Identity) and _is_linear(head),
        patch=(patch[0], patch[1]),
        prefix_tokens=prefix_tokens,
        registers=parts.blocks.registers if isinstance(parts.blocks, RegisterBlocks) else 0,
        readout=readout,
        read_tokens=read_tokens,
        depth=len(blocks),
        heads=int(blocks[0].attn.num_heads),
        width=int(parts.embed_dim),
        classes=classes,
        input_size=(size[0], size[1]),
        embedding=base_class(parts.patch_embed).__name__,
        attention="gated " * is_gated + class_names(known, ATTENTIONS),
        has_plain_attention_output=all(_has_plain_output(block.attn) for block in blocks),
        norm=class_names(known, NORMS),
        mlp=class_names(known, MLPS),
        activation=class_names(known, ACTIVATIONS),
        classifier=base_class(head).__name__,
        class_activation=head_activation(model),
        head=getattr(head, "digest", None),
        empty_prompts=0 if getattr(head, "empty", None) is None else len(head.empty),
        positions=_positions(parts),
    )


def _has_plain_output(attention: nn.Module) -> bool:
    """Return whether the output of an attention goes to its projection as it is."""
    normed = isinstance(getattr(attention, "norm", None), NORMS)
    return getattr(attention, "gate", None) is None and not normed


def _is_linear(head: nn.Module) -> bool:
    """Return whether a classifier is a linear function of its input, but for a constant."""
    layers = (nn.Linear, LinearHead, nn.BatchNorm1d, nn.Dropout, nn.Identity, nn.Sequential)
    return all(base_class(module) in layers for module in head.modules())


def _other_network(model: nn.Module) -> str | None:
    """Return the reason why this is not a network of a known class, or None."""
    if base_class(model) in NETWORKS:
        return None
    known = ", ".join(network.__name__ for network in NETWORKS)
    return (
        f"it is a {type(model).__name__}, and none of the networks in which every token attends to every token "
        f"(timm's {known}); if it is one in other code, load its weights into timm's model"
    )


def _is_of_timm(module: nn.Module) -> bool:
    """Return whether a module with all its parts is of timm's own classes."""
    return all(base_class(part).__module__.startswith(("timm.", "torch.nn.")) for part in module.modules())


def _unsupported_block(block: Any) -> str | None:
    """Return the reason why the methods are not defined for a block, or None."""
    if base_class(block) not in BLOCKS:
        return "is not a pre-norm block of attention and MLP"
    if base_class(block.attn) not in ATTENTIONS:
        return f"attends by {type(block.attn).__name__}, which is not softmax attention over all tokens"
    if getattr(block.attn, "num_kv_heads", block.attn.num_heads) != block.attn.num_heads:
        return "shares keys and values among its heads"
    return None


def _unsupported_patches(embed: Any) -> str | None:
    """Return the reason why the patches do not lie on a grid over the images, or None."""
    if any(size is None or len(size) != 2 for size in (embed.img_size, embed.grid_size, embed.patch_size)):
        return "its images have no fixed height and width; create it with img_size"
    sides = list(zip(embed.img_size, embed.grid_size, embed.patch_size, strict=True))
    if hasattr(embed, "backbone"):  # it halves the image some times, and rounds up
        halved = all(count * (stride := size // count) == size and stride.bit_count() == 1 for size, count, _ in sides)
        return None if halved else f"the patches of its backbone do not divide images of {embed.img_size} pixels"
    if getattr(embed, "dynamic_img_pad", False) and any(size % patch for size, _, patch in sides):
        return f"it pads images of {embed.img_size} pixels to whole patches; choose an img_size that they divide"
    proj = getattr(embed, "proj", None)
    if isinstance(proj, nn.Conv2d):
        patch = tuple(embed.patch_size)
        plain = proj.kernel_size == proj.stride == patch and proj.padding in ((0, 0), "valid")
        if not plain or proj.dilation != (1, 1):
            return "its patches overlap, or are padded"
    return None


def _count_classes(parts: list[Part], refuse: Any) -> int:
    """Return the length of the logits, by the last linear layer of each classifier."""
    counts = []
    for name in ("head", "head_dist"):
        layers = [part for part in parts if part.path.partition(".")[0] == name]
        if layers and isinstance(layers[0].module, ZeroShotHead):
            counts.append(layers[0].module.out_features)
            continue
        if not layers:
            continue
        last = [part.module for part in layers if part.cls not in (nn.Sequential, nn.Dropout, nn.Identity)][-1:]
        if not last or not isinstance(last[0], nn.Linear):
            raise refuse(f"its {name} does not end in a linear layer, the outputs of which are the logits")
        counts.append(last[0].out_features)
    if len(set(counts)) > 1:
        raise refuse(f"its two classifiers have {' and '.join(map(str, counts))} classes")
    return counts[0]


def _positions(parts: Any) -> Positions:
    if getattr(parts, "rope", None) is not None:
        return "rotary"
    attention = parts.blocks[0].attn
    tables = (getattr(attention, "relative_position_bias_table", None), getattr(parts, "rel_pos_bias", None))
    biased = type(attention).__name__ == "RelPosAttention" or any(table is not None for table in tables)
    return "relative" if biased else "absolute"


def _readout(parts: Any) -> tuple[Readout, int]:
    if getattr(parts, "attn_pool", None) is not None:
        pool = parts.attn_pool
        if type(pool).__name__ != "AttentionPoolLatent" or pool.latent_len != 1:
            raise NoGlobalAttention(parts, "its attention pooler has not exactly one latent query")
        if parts.num_prefix_tokens:
            raise NoGlobalAttention(parts, "it has both prefix tokens and an attention pooler")
        return "pool", 0
    if isinstance(parts.fc_norm, TokenAndMean):
        return "token+mean", 0
    pooling = getattr(parts, "global_pool", "")
    if pooling == "token" and parts.num_prefix_tokens:
        return "token", 2 if hasattr(parts, "head_dist") else 1
    if pooling == "avg" and not getattr(parts, "pool_include_prefix", False):
        return "mean", 0
    if pooling == "avg":
        raise NoGlobalAttention(parts, "it pools its prefix tokens along with the patches")
    raise NoGlobalAttention(parts, f"its read-out (global_pool={pooling!r}) is not token, avg or map")
