"""``describe``: what a network offers to attribution methods."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pipeline.explain.anatomy import NoGlobalAttention, describe_transformer
from pipeline.explain.classifier_faults import NO_CLASSIFIER, classes_fault
from pipeline.explain.feature_layers import NoFeatureGrid, find_features
from pipeline.explain.feature_readout import try_read_out
from pipeline.explain.head_modules import attached_module, head_activation
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.module_classes import NETWORKS, base_class, find_tensor_fault, find_wrapper_fault, path_of
from pipeline.explain.network import FeatureLayer, Network, Requirement
from pipeline.explain.shape_run import ShapeRun, is_norm, run_shapes
from schemas.errors import UnsupportedModel

Size = tuple[int, int]


def describe(model: nn.Module, size: Size | None = None) -> Network:
    """Describe a network.

    Args:
        model: a network that returns logits [B, C] of images [B, 3, H, W].
        size: height and width of the images, for a network that takes several sizes; by default those that it states.

    Returns:
        An ``Anatomy`` for a plain vision transformer of timm.

    Raises:
        UnsupportedModel: no method is defined for it; the message gives the reason.
    """
    if reason := general_fault(model):
        raise UnsupportedModel(f"{type(model).__name__} cannot be explained: {reason}")
    try:
        return describe_transformer(model)
    except NoGlobalAttention as refusal:
        if reason := find_tensor_fault(model):
            raise UnsupportedModel(f"{type(model).__name__} cannot be explained: {reason}") from None
        with preserve_model_state(model), torch.no_grad():
            return _describe_any(model, size, refusal.reason)


def general_fault(model: Any) -> str | None:
    """Return the reason why no method is defined for a model of whatever structure, or None."""
    if not isinstance(model, nn.Module):
        return "it is not a torch.nn.Module"
    if reason := find_wrapper_fault(model):
        return reason
    if base_class(model) not in NETWORKS:
        if isinstance(model, NETWORKS):
            known = ", ".join(network.__name__ for network in NETWORKS)
            return f"it is none of timm's {known}, but a class derived from one; load its weights into timm's model"
        for module in model.modules():
            if base_class(module) in NETWORKS:
                return f"it wraps a {type(module).__name__}; give that, model.{path_of(module, model)}"
    if any(base.__module__.startswith("transformers.") for base in type(model).__mro__):
        return "it is a model of transformers that is no plain vision transformer, or none that timm has"
    return None


def _describe_any(model: Any, size: Size | None, no_attention: str) -> Network:
    """Describe a network that is no plain vision transformer. Call it inside ``preserve_model_state(model)``.

    Args:
        model: the network.
        size: see ``describe``.
        no_attention: the reason why it offers no global attention.
    """
    family, own_size = type(model).__name__, stated_size(model)
    if size is None and own_size is None:
        raise UnsupportedModel(
            f"{family} cannot be explained: it does not state the size of its images; "
            "give describe(model, (height, width))"
        )
    if reason := _classifier_fault(model):
        raise UnsupportedModel(f"{family} cannot be explained: {reason}")
    size, run = _run(model, size, own_size)
    classes = run.logits[1]
    reason, head = classes_fault(model, classes), attached_module(model)
    last: Any = head or (model.get_submodule(run.last_layer) if run.last_layer else None)
    if not reason and is_norm(last):
        reason = f"a {type(last).__name__} follows its last linear layer, so that its outputs may be no logits"
    elif not reason and getattr(last, "out_features", getattr(last, "out_channels", 0)) != classes:
        reason = f"its last linear layer does not have its {classes} outputs, so that these may be no logits"
    if reason:
        raise UnsupportedModel(f"{family} cannot be explained: {reason}")
    missing = {Requirement.ATTENTION: no_attention}
    if run.no_rule:
        missing[Requirement.LAYERS] = run.no_rule
    features: tuple[FeatureLayer, ...] = ()
    try:
        features = find_features(model, run, size)
    except NoFeatureGrid as refusal:
        missing[Requirement.FEATURES] = str(refusal)
    apart = bool(features) and not features[0].no_readout and not next(model.parameters()).is_meta
    empty: Any = getattr(head, "empty", None)
    reads_mean, is_linear = try_read_out(model, features[0]) if apart else (False, False)
    if apart and not reads_mean:
        filled = replace(features[0], fills=True)
        reads_mean, is_linear = try_read_out(model, filled)
        features = (filled, *features[1:]) if reads_mean else features
    return Network(
        family=family,
        grid=features[0].grid if features else _largest_grid(size),
        input_size=size,
        classes=classes,
        classifier=type(last).__name__,
        class_activation=head_activation(model),
        head=None if head is None else head.digest,
        empty_prompts=0 if empty is None else len(empty),
        missing=missing,
        features=features,
        prefix_tokens=features[0].prefix_tokens if features else 0,
        readout="mean" if reads_mean else "features" if apart else "other",
        has_linear_readout=is_linear,
        attention_modules=() if run.no_rule else run.attention,
    )


def _run(model: Any, size: Size | None, own_size: Size | None) -> tuple[Size, ShapeRun]:
    """Run a network at a size, or at its own where it does not take that one."""
    for each in (size, own_size):
        try:
            if each is not None:
                return each, run_shapes(model, each)
        except UnsupportedModel:
            if each == own_size or own_size is None:
                raise
    raise AssertionError("there is a size")


def stated_size(model: Any) -> Size | None:
    """Return height and width of the images of a network, as it states them."""
    config = getattr(model, "pretrained_cfg", None) or {}
    embed = getattr(model, "patch_embed", None)
    for stated in (getattr(embed, "img_size", None), getattr(model, "img_size", None), config.get("input_size")):
        if isinstance(stated, tuple | list) and len(stated) >= 2:
            return int(stated[-2]), int(stated[-1])
    return None


def _classifier_fault(model: Any) -> str | None:
    """Return the reason why a network has no classifier, or None."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(classifier, nn.Identity) or getattr(model, "num_classes", None) == 0:
        return NO_CLASSIFIER
    return None


def _largest_grid(size: Size) -> Size:
    """Return a grid for maps of a network without a feature grid: cells of 16 pixels or a little more."""
    return max(1, size[0] // 16), max(1, size[1] // 16)
