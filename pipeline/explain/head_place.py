"""Where a head file goes on a network: which classifier it replaces, and which features it reads there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.explain.description import general_fault, stated_size
from pipeline.explain.feature_layers import NoFeatureGrid, find_features
from pipeline.explain.feature_readout import returns_output_of, try_read_out
from pipeline.explain.head_modules import BehindFlatten, TokenAndMean
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.module_classes import NETWORKS, base_class
from pipeline.explain.shape_run import run_shapes
from schemas.errors import UnsupportedModel
from schemas.head import HeadReadout


@dataclass(frozen=True)
class HeadPlace:
    """The place of a head in a network.

    Attributes:
        path: of the classifier.
        width: of the tokens of a plain vision transformer, or of what the classifier of another network reads.
        is_map: whether it reads means [B, D, 1, 1], as a convolution does.
    """

    path: str
    width: int
    is_map: bool = False

    def put(self, model: nn.Module, head: nn.Module) -> None:
        """Replace the classifier by a head."""
        model.set_submodule(self.path, BehindFlatten(head) if self.is_map else head)


def find_place(model: Any) -> HeadPlace:
    """Find the place of a head.

    In a network that is no plain vision transformer the features of a head are what its own classifier reads. They have
    to be a function of the mean of the last feature grid, which is tried on random features; a norm or a hidden layer
    may come before or after the mean.

    Args:
        model: the network, with its classifier or an ``nn.Identity`` in place of it. On the meta device the mean is
            not tried.

    Raises:
        UnsupportedModel: a head file has no place on it; the message gives the reason.
    """
    path = classifier_path(model)
    if base_class(model) in NETWORKS:
        return HeadPlace(path, model.embed_dim)

    def refuse(reason: str) -> UnsupportedModel:
        return UnsupportedModel(f"{type(model).__name__} can have no head file: {reason}")

    if reason := general_fault(model):
        raise refuse(reason)
    if not hasattr(model, "forward_head"):
        raise refuse(
            "it has no forward_head, so that nobody can tell whether its classifier reads the mean of features"
        )
    size = stated_size(model)
    if size is None:
        raise refuse("it does not state the size of its images; give it pretrained_cfg with input_size")
    with _without_classifier(model, path), preserve_model_state(model), torch.no_grad():
        try:
            run = run_shapes(model, size)
        except UnsupportedModel as error:  # such as one with a second classifier for training
            raise refuse(f"without its classifier {path} it does not run: {error}") from None
        try:
            layer = find_features(model, run, size)[0]
        except NoFeatureGrid as refusal:
            raise refuse(str(refusal)) from None
        if layer.path:
            raise refuse(
                f"its classifier reads a class token or an attention over {layer.path}, not the mean of features"
            )
        is_meta = next(model.parameters()).is_meta
        if not is_meta and not try_read_out(model, layer)[0]:
            raise refuse(f"its classifier does not read the mean of the last features{_pooling(model)}")
        if not is_meta and not returns_output_of(model, path, layer):
            raise refuse(f"its logits are not the output of its classifier {path}, but made of it by further code")
    shape = run.outputs.get(path, ())
    if len(shape) != 2 and shape[2:] != (1, 1):
        raise refuse(f"its classifier {path} does not run once, on the mean of the features")
    return HeadPlace(path, run.logits[1], len(shape) == 4)


def classifier_path(model: Any) -> str:
    """Return the path of the classifier: ``head`` of a plain vision transformer, otherwise by ``get_classifier``.

    Raises:
        UnsupportedModel: there is none, or there are two.
    """
    family = type(model).__name__
    if base_class(model) in NETWORKS:
        if not hasattr(model, "head"):
            raise UnsupportedModel(f"{family} can have no head file: it has no classifier head")
        return "head"
    if not hasattr(model, "get_classifier"):
        raise UnsupportedModel(
            f"{family} can have no head file: it has no get_classifier, by which timm's networks name the layer that a "
            "head replaces; a vision transformer of another library becomes timm's by as_timm(model)"
        )
    classifier = model.get_classifier()
    if isinstance(classifier, tuple | list | nn.ModuleList):
        raise UnsupportedModel(f"{family} can have no head file: it has several classifiers")
    for path, module in model.named_modules():
        if path and module is classifier:
            return path
    raise UnsupportedModel(f"{family} can have no head file: its get_classifier returns none of its modules")


def _pooling(model: Any) -> str:
    """Return how a network pools, in brackets, where it states another way than a mean."""
    pool: Any = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    kind = getattr(pool, "pool_type", pool)
    if not isinstance(kind, str) or not kind or kind == "avg":
        return ""
    return f" ({kind})" if pool is kind else f" ({type(pool).__name__}, {kind})"


@contextmanager
def _without_classifier(model: nn.Module, path: str) -> Iterator[None]:
    """Make a network return the features that its classifier reads."""
    own = model.get_submodule(path)
    model.set_submodule(path, nn.Identity())
    try:
        yield
    finally:
        model.set_submodule(path, own)


def own_readout(parts: Any) -> HeadReadout | None:
    """Return the features that a timm network reads out; None if no head file can read them."""
    if base_class(parts) not in NETWORKS:
        return "mean"  # or else it has no place for a head
    if getattr(parts, "attn_pool", None) is not None:
        return "pool"
    if isinstance(parts.fc_norm, TokenAndMean):
        return "token+mean"
    readouts: dict[str, HeadReadout] = {"token": "token", "avg": "mean"}
    return readouts.get(parts.global_pool)


def set_readout(parts: Any, read_out: HeadReadout, refuse: Any) -> None:
    """Make a network read out what the head expects, where its structure allows that.

    Args:
        parts: the network, which has a place for a head.
        read_out: what the head expects.
        refuse: makes an exception of a reason.
    """
    if hasattr(parts, "head_dist"):
        raise refuse("it has two classifiers, one for its distillation token")
    own = own_readout(parts)
    if own == read_out:
        return
    if base_class(parts) not in NETWORKS:
        raise refuse(f"it reads out the mean of its last features; the head was made for {read_out}")
    if own is None or "pool" in (own, read_out):
        raise refuse(f"it reads out {own or parts.global_pool}; the head was made for {read_out}")
    if own == "token+mean":
        parts.fc_norm = nn.Identity()
    if isinstance(parts.norm, nn.Identity) or not isinstance(parts.fc_norm, nn.Identity):
        raise refuse(f"its final norm follows the mean; the head reads {read_out} behind the norm")
    if read_out != "mean" and getattr(parts, "cls_token", None) is None:
        raise refuse(f"it has no class token; the head was made for {read_out}")
    parts.global_pool = {"token": "token", "mean": "avg", "token+mean": ""}[read_out]
    if read_out == "token+mean":
        parts.fc_norm = TokenAndMean(parts.num_prefix_tokens)


def mlp_activation(model: Any) -> str:
    """Return the class name of the activation in a plain vision transformer's MLPs; empty for other networks."""
    return type(model.blocks[0].mlp.act).__name__ if base_class(model) in NETWORKS else ""
