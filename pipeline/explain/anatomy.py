"""Description of a vision transformer, as far as attribution methods depend on it."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from pipeline.explain.embedding_towers import is_projection
from pipeline.explain.head import head_activation
from pipeline.explain.head_modules import LinearHead, TokenAndMean, ZeroShotHead
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
    find_wrapper_fault,
    known_parts,
)
from pipeline.explain.register_modules import RegisterBlocks
from schemas.errors import UnsupportedModel
from schemas.head import Activation

Readout = Literal["token", "mean", "pool", "token+mean"]
Positions = Literal["absolute", "rotary", "relative"]

_HEAD_HINT = "give it a head file by --head FILE (in Python, Head.load(FILE).attach(model))"


@dataclass(frozen=True)
class Anatomy:
    """Structure of a vision transformer, in the terms in which attribution methods are defined.

    Attributes:
        family: name of the model's class.
        grid: rows and columns of the patch grid.
        patch: height and width of a patch, in pixels. Grid times patch may be smaller than the images: timm
            ignores the rest at the right and lower edge.
        prefix_tokens: number of tokens before the patches: class token, distillation token, registers.
        registers: number of test-time registers, tokens behind the patches in the blocks only; see ``Registers``.
        readout: input of the classifier: ``token`` is the class token, ``mean`` the mean of the patch tokens,
            ``pool`` the output of an attention pooler with one latent query, ``token+mean`` class token and mean
            concatenated (by a head file).
        read_tokens: number of prefix tokens that the classifier reads: 1, 2 for a distilled model, otherwise 0.
        depth: number of blocks.
        heads: attention heads per block.
        width: token dimension.
        classes: length of the logits.
        input_size: height and width of the images, in pixels.
        embedding: class name of the patch embedding.
        attention: class name of the attention, preceded by ``gated`` if an output is gated.
        has_plain_attention_output: whether the output of every attention goes to its projection as it is, without a
            gate or a norm.
        norm: class name of the norms; of several, like those below, the names joined by a comma.
        mlp: class name of the MLPs.
        activation: class name of the activation functions.
        classifier: class name of the head.
        class_activation: turns logits into probabilities: ``softmax``, or ``sigmoid`` by a head file.
        head: digest of its head file; None for a classifier of its own.
        empty_prompts: number of embeddings of prompts that name nothing, in a zero-shot head; otherwise 0.
        positions: position encoding: ``absolute`` is added to the tokens, ``rotary`` rotates queries and keys,
            ``relative`` is added to the attention scores.
    """

    family: str
    grid: tuple[int, int]
    patch: tuple[int, int]
    prefix_tokens: int
    registers: int
    readout: Readout
    read_tokens: int
    depth: int
    heads: int
    width: int
    classes: int
    input_size: tuple[int, int]
    embedding: str
    attention: str
    has_plain_attention_output: bool
    norm: str
    mlp: str
    activation: str
    classifier: str
    class_activation: Activation
    head: str | None
    empty_prompts: int
    positions: Positions

    @property
    def patches(self) -> int:
        """Number of patch tokens."""
        return self.grid[0] * self.grid[1]

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
    def has_constant_probability(self) -> bool:
        """Whether every probability is 1: the softmax of one class."""
        return self.classes == 1 and self.class_activation == "softmax"


def describe(model: nn.Module) -> Anatomy:
    """Describe a timm vision transformer.

    Raises:
        UnsupportedModel: the methods are not defined for it; the message gives the reason.
    """
    family = type(model).__name__
    parts: Any = model

    def refuse(reason: str) -> UnsupportedModel:
        return UnsupportedModel(f"{family} cannot be explained: {reason}")

    if reason := _unsupported_network(model):
        raise refuse(reason)
    blocks = list(parts.blocks)
    if not blocks:
        raise refuse("it has no blocks")
    for index, block in enumerate(blocks):
        if reason := _unsupported_block(block):
            raise refuse(f"block {index} ({type(block).__name__}) {reason}")
    head = getattr(parts, "head", None)
    if head is None or isinstance(head, nn.Identity):
        raise refuse(f"it has no classifier; {_HEAD_HINT}, a number of classes, or a checkpoint that has one")
    known = known_parts(model)
    if reason := find_fault(model, known):
        raise refuse(reason)
    classes = _count_classes(known, refuse)
    has_head_file = isinstance(head, LinearHead | ZeroShotHead)
    if classes == 1 and not has_head_file:
        raise refuse(
            "it has one logit, and the softmax of one is always 1; give its classifier a row of zeros in front, "
            "for class 0, whose softmax is the sigmoid of this logit"
        )
    if not has_head_file and is_projection(parts, classes):
        raise refuse(
            f"its last layer projects into an embedding space of {classes} channels, which are no classes; "
            f"{_HEAD_HINT}, a number of classes, or a fine-tuned checkpoint; if these are classes, name them in "
            "label_names of its pretrained_cfg"
        )
    if reason := _unsupported_patches(parts.patch_embed):
        raise refuse(reason)
    channels = getattr(getattr(parts.patch_embed, "proj", None), "in_channels", 3)
    if channels != 3 and not hasattr(parts.patch_embed, "backbone"):
        raise refuse(f"it takes {channels} channels; only RGB is supported")
    readout, read_tokens = _readout(parts, refuse)
    grid = tuple(int(side) for side in parts.patch_embed.grid_size)
    size = tuple(int(side) for side in parts.patch_embed.img_size)
    patch = tuple(int(side) for side in parts.patch_embed.patch_size)
    if hasattr(parts.patch_embed, "backbone"):  # the backbone makes the patches
        patch = tuple(side // count for side, count in zip(size, grid, strict=True))
    return Anatomy(
        family=family,
        grid=(grid[0], grid[1]),
        patch=(patch[0], patch[1]),
        prefix_tokens=int(parts.num_prefix_tokens),
        registers=parts.blocks.registers if isinstance(parts.blocks, RegisterBlocks) else 0,
        readout=readout,
        read_tokens=read_tokens,
        depth=len(blocks),
        heads=int(blocks[0].attn.num_heads),
        width=int(parts.embed_dim),
        classes=classes,
        input_size=(size[0], size[1]),
        embedding=base_class(parts.patch_embed).__name__,
        attention=("gated " if any(getattr(block.attn, "gate", None) is not None for block in blocks) else "")
        + class_names(known, ATTENTIONS),
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


def _unsupported_network(model: Any) -> str | None:
    """Return the reason why this is not a network of a known class, or None."""
    if not isinstance(model, nn.Module):
        return "it is not a torch.nn.Module"
    if reason := find_wrapper_fault(model):
        return reason
    if base_class(model) in NETWORKS:
        return None
    for path, module in model.named_modules():
        if base_class(module) in NETWORKS:
            return f"it wraps a {type(module).__name__}; give that, model.{path}"
    if any(base.__module__.startswith("transformers.") for base in type(model).__mro__):
        return "it is a model of transformers that is no plain vision transformer, or none that timm has"
    for part in ("patch_embed", "blocks", "norm", "num_prefix_tokens", "forward_head"):
        if not hasattr(model, part):
            return f"it has no {part}, so it is not a plain vision transformer of global attention"
    known = ", ".join(network.__name__ for network in NETWORKS)
    return f"it is none of timm's {known}; if it is one in other code, load its weights into timm's model"


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


def _readout(parts: Any, refuse: Any) -> tuple[Readout, int]:
    if getattr(parts, "attn_pool", None) is not None:
        pool = parts.attn_pool
        if type(pool).__name__ != "AttentionPoolLatent" or pool.latent_len != 1:
            raise refuse("its attention pooler has not exactly one latent query")
        if parts.num_prefix_tokens:
            raise refuse("it has both prefix tokens and an attention pooler")
        return "pool", 0
    if isinstance(parts.fc_norm, TokenAndMean):
        return "token+mean", 0
    pooling = getattr(parts, "global_pool", "")
    if pooling == "token" and parts.num_prefix_tokens:
        return "token", 2 if hasattr(parts, "head_dist") else 1
    if pooling == "avg" and not getattr(parts, "pool_include_prefix", False):
        return "mean", 0
    if pooling == "avg":
        raise refuse("it pools its prefix tokens along with the patches")
    raise refuse(f"its read-out (global_pool={pooling!r}) is not token, avg or map")
