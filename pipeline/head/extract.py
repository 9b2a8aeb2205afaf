"""A head file out of a checkpoint: the tensors of its classifier, and the features that they read."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from pipeline.explain.checkpoint import ModelConfig
from pipeline.explain.checkpoint.layout import Layout
from pipeline.explain.checkpoint.recognize import recognize
from pipeline.explain.checkpoint.weights_file import read_weights
from pipeline.explain.embedding_towers import embedding_widths
from pipeline.explain.head import Head
from pipeline.explain.weights_hash import hash_tensors
from schemas.errors import UsageError
from schemas.head import CheckpointReadout, HeadRecord
from schemas.text import suggest

_WRAPPERS = r"(?:(?:module|_orig_mod|base_model|model|net|backbone)\.)*"
_CLASSIFIER = re.compile(
    _WRAPPERS
    + r"(?:(?:heads\.head|head\.(?:head|fc|\d+)|head|head_dist|(?:cls_|distillation_)?classifier|fc|linear)\.)?"
)
"""What stands in front of ``weight`` in the names of classifiers."""
_PROBE = re.compile(_WRAPPERS + r"classifiers_dict\.(?P<label>[^.]+)\.linear\.")
"""The same for the many probes in a log of DINOv2's evaluation (dinov2/eval/linear.py)."""
_PROBE_INPUT = re.compile(r"classifier_(?P<blocks>\d+)_blocks_avgpool_(?P<mean>True|False)_.*")
_PATCHES = re.compile(r".*patch_embed\.proj\.weight")
"""Convolution that embeds patches; it has as many outputs as the tokens are wide."""
_MAE_EPS = 1e-6
"""Of the BatchNorm without weights in front of MAE's linear probe (main_linprobe.py)."""

_READOUT_OF_PROBE: dict[str, CheckpointReadout] = {"True": "token+mean", "False": "token"}
_ONE: tuple[CheckpointReadout, ...] = ("token", "mean", "pool")
_TWO: tuple[CheckpointReadout, ...] = ("token+mean", "interleaved")

_BY_POOLING: dict[str, CheckpointReadout] = {
    "token": "token",
    "avg": "mean",
    "map": "pool",
    "token+mean": "token+mean",
}
"""What a classifier reads, by the pooling in timm's terms."""


@dataclass(frozen=True)
class _Layer:
    """A linear layer of a file.

    Attributes:
        prefix: what stands in front of ``weight`` in its name, with the dot.
        weight: [C, in].
        bias: [C], or None.
    """

    prefix: str
    weight: Tensor
    bias: Tensor | None

    @property
    def label(self) -> str:
        """What a user calls it."""
        probe = _PROBE.fullmatch(self.prefix)
        return probe["label"] if probe else self.prefix.removesuffix(".") or "weight"


def extract_head(
    path: str,
    name: str | None = None,
    read_out: CheckpointReadout | None = None,
    classes: Sequence[str] = (),
    key: str | None = None,
) -> Head:
    """Make a linear head of the classifier in a checkpoint. Reading the file runs no code.

    Args:
        path: weights file, of a classifier alone or of a whole network.
        name: of the layer, where the file has several.
        read_out: what the columns stand for; needed where the tensors of the file do not decide it.
        classes: name of each logit; by default ``class 0``, ``class 1``, ….
        key: name of the state dict in a file that has several.

    Raises:
        UsageError: the file cannot be read, has no such classifier or several, does not decide the read-out, or has
            one that no head file has.
    """
    content = read_weights(path, key)
    renamed = recognize(content, path)
    layout = renamed.layout
    weights = renamed.weights if layout else content
    layer = _without_norm(_choose(weights, name, path), weights, path)
    count, width = layer.weight.shape
    if classes and len(classes) != count:
        raise UsageError(f"{path}: {layer.label} has {count} classes, and --classes {len(classes)} names")
    if not classes and _has(weights, r"(?:.*\.)?(?:norm_pre|ln_pre)\.weight") and count in embedding_widths():
        raise UsageError(
            f"{path}: {layer.label} seems to be the projection of an image–text tower, no classifier; make a head of "
            "texts by vitatlas head text, or name the classes with --classes"
        )
    columns = _read_out(weights, layer, layout, read_out, path)
    matrix = layer.weight
    if columns == "interleaved":
        matrix, columns = torch.cat([matrix[:, 0::2], matrix[:, 1::2]], 1), "token+mean"
    record = HeadRecord(
        kind="linear",
        classes=tuple(classes) or tuple(f"class {index}" for index in range(count)),
        read_out=columns,
        input_width=width // 2 if columns == "token+mean" else width,
        provenance=f"{layer.label} of {os.path.basename(path)}, tensors {hash_tensors(content)}",
    )
    return Head(record, {"weight": matrix} | ({} if layer.bias is None else {"bias": layer.bias}), path)


def _choose(weights: dict[str, Tensor], name: str | None, path: str) -> _Layer:
    """Return the layer of that name, or the only classifier of the file."""
    prefixes = [
        key.removesuffix("weight")
        for key, tensor in weights.items()
        if (key == "weight" or key.endswith(".weight")) and _is_plain(tensor, 2)
    ]
    layers = [_Layer(prefix, weights[f"{prefix}weight"], weights.get(f"{prefix}bias")) for prefix in prefixes]
    known = [layer for layer in layers if any(form.fullmatch(layer.prefix) for form in (_CLASSIFIER, _PROBE))]
    if name is not None:
        named = [layer for layer in layers if name in (layer.label, layer.prefix.removesuffix("."))]
        named = named or [layer for layer in known if layer.prefix.endswith(f".{name}.")]
        if not named:
            labels = [layer.label for layer in known or layers]
            hint = suggest(name, labels) or f"; it has {_listed(labels)}"
            raise UsageError(f"{path}: has no linear layer {name!r}{hint}")
        known = named
    if len(known) > 1:
        labels = [layer.label for layer in known]
        raise UsageError(f"{path}: has several classifiers, {_listed(labels)}; choose one with --name")
    if not known:
        labels = [layer.label for layer in layers]
        found = f"its linear layers are {_listed(labels)}; choose one with --name" if labels else "it has no matrix"
        raise UsageError(f"{path}: has no classifier by one of the usual names; {found}")
    (layer,) = known
    if layer.bias is not None and not (_is_plain(layer.bias, 1) and len(layer.bias) == len(layer.weight)):
        raise UsageError(f"{path}: the bias of {layer.label} has shape {list(layer.bias.shape)}; it is no classifier")
    return layer


def _is_plain(tensor: Tensor, dimensions: int) -> bool:
    return (
        tensor.ndim == dimensions
        and tensor.numel() > 0
        and tensor.is_floating_point()
        and tensor.layout == torch.strided
    )


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return ", ".join(label[:80] for label in labels[:5]) + more


def _without_norm(layer: _Layer, weights: dict[str, Tensor], path: str) -> _Layer:
    """Fold a BatchNorm in front of the layer into it: W/σ and b − W·μ/σ with σ² = variance + ε."""
    parent, _, index = layer.prefix.removesuffix(".").rpartition(".")
    if not index.isdigit() or index == "0":
        return layer
    norm = f"{parent}.{int(index) - 1}." if parent else f"{int(index) - 1}."
    mean, variance = weights.get(f"{norm}running_mean"), weights.get(f"{norm}running_var")
    if mean is None or variance is None or f"{norm}weight" in weights:
        raise UsageError(
            f"{path}: {layer.label} is the last of several layers; only a single linear layer, or one behind a "
            "BatchNorm without weights, becomes a head"
        )
    matrix = layer.weight.double() / (variance.double() + _MAE_EPS).sqrt()
    bias = -matrix @ mean.double() + (0 if layer.bias is None else layer.bias.double())
    return _Layer(layer.prefix, matrix.to(layer.weight.dtype), bias.to(layer.weight.dtype))


def _read_out(
    weights: dict[str, Tensor], layer: _Layer, layout: Layout | None, asked: CheckpointReadout | None, path: str
) -> CheckpointReadout:
    """Return what the columns stand for: what the user says, or else what the file says, if the widths agree."""
    columns, tokens = layer.weight.shape[1], _token_width(weights)
    if layout is not None and layout.arguments.get("final_norm") is False:
        raise UsageError(f"{path}: its classifier reads patches in front of the final norm, which no head file does")
    if layer.label.endswith(("head_dist", "distillation_classifier")):
        raise UsageError(
            f"{path}: {layer.label} reads the distillation token, which no head file does; a run takes both "
            "classifiers of the network with --checkpoint"
        )
    probe = _PROBE_INPUT.fullmatch(layer.label)
    if (probe and probe["blocks"] != "1") or (tokens and columns in (4 * tokens, 5 * tokens)):
        raise UsageError(
            f"{path}: {layer.label} reads several blocks, and a head file only the last; take a classifier of one block"
        )
    config = ModelConfig.beside(path) if tokens and layout is None else None
    if probe:
        known: CheckpointReadout | None = _READOUT_OF_PROBE[probe["mean"]]
    elif config is not None and config.read_out in _BY_POOLING:
        known = _BY_POOLING[config.read_out]
    else:
        known = _by_layout(weights, layout)
    if probe and asked not in (None, known):
        raise UsageError(f"{path}: {layer.label} reads {known}, by its name; leave out --read-out {asked}")
    fitting: tuple[CheckpointReadout, ...] = get_args(CheckpointReadout)
    if tokens:
        fitting = _ONE if columns == tokens else _TWO if columns == 2 * tokens else ()
    sizes = f"{layer.label} has {columns} columns" + (f" and the tokens are {tokens} wide" if tokens else "")
    if not fitting or (asked and asked not in fitting) or (asked in _TWO and columns % 2):
        raise UsageError(f"{path}: {sizes}; {f'that is not {asked}' if asked else 'no read-out has so many features'}")
    found = asked or known
    if found not in fitting:
        raise UsageError(
            f"{path}: {sizes}, which do not say what it reads; give --read-out {' or '.join(fitting)} (DINOv2's and "
            "DINOv3's linear heads of one block read token+mean, DINO's of ViT-B interleaved)"
        )
    return found


def _token_width(weights: dict[str, Tensor]) -> int | None:
    """Return the width of the tokens of the network in a file; None for a classifier alone, or if stages differ."""
    patches = {len(tensor) for name, tensor in weights.items() if tensor.ndim == 4 and _PATCHES.fullmatch(name)}
    widths = patches | {len(tensor) for name, tensor in weights.items() if name.endswith(".norm1.weight")}
    return widths.pop() if patches and len(widths) == 1 else None


def _by_layout(weights: dict[str, Tensor], layout: Layout | None) -> CheckpointReadout | None:
    """Return what the classifier of a whole network reads, None where its tensors do not say it."""
    if layout is not None and layout.read_out is not None:
        return _BY_POOLING[layout.read_out]
    if _has(weights, r"attn_pool\.latent"):
        return "pool"
    norm, norm_of_mean = _has(weights, r"norm\.weight"), _has(weights, r"fc_norm\.weight")
    if norm == norm_of_mean:
        return None
    if norm_of_mean or not _has(weights, "cls_token"):
        return "mean"
    # With registers, such as DINOv3's, timm builds networks of either read-out that have the same tensors.
    return None if _has(weights, "reg_token|register_tokens|storage_tokens") else "token"


def _has(weights: dict[str, Tensor], pattern: str) -> bool:
    return any(re.fullmatch(f"{_WRAPPERS}(?:{pattern})", name) for name in weights)
