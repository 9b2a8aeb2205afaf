"""Names of the classes of a network's own classifier, as far as its source tells them."""

import re
from collections.abc import Sequence
from typing import Any

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

_IMAGENET_TAG = re.compile(r"(?:.*_)?in(?:1|12|21|22)k(?:_[0-9]+)?")
"""End of the tags of timm's own weights that classify ImageNet or a superset of it."""


def label_names(model: nn.Module, pretrained: bool) -> tuple[str, ...]:
    """Return the name of each class of a network; empty if they are not known.

    They are those of ``label_names`` in a ``config.json``, or those of ImageNet, if timm's own weights were trained on
    it: a network of a thousand classes may be of any thousand. A head file has its own.

    Args:
        model: a timm network.
        pretrained: its weights are timm's.
    """
    names: Sequence[str] = _configured_names(_config(model))
    if not names and (info := _imagenet_info(model, pretrained)):
        names = list(info.label_descriptions())
    return tuple(names) if len(names) == getattr(model, "num_classes", 0) else ()


def wordnet_ids(model: nn.Module, pretrained: bool) -> tuple[str, ...]:
    """Return the WordNet id of each class of a network; empty if they are not known.

    Args:
        model: a timm network.
        pretrained: its weights are timm's.
    """
    info = _imagenet_info(model, pretrained)
    ids = tuple(info.label_names()) if info else ()
    return ids if len(ids) == getattr(model, "num_classes", 0) else ()


def _config(model: nn.Module) -> dict[str, Any]:
    return getattr(model, "pretrained_cfg", None) or {}


def _imagenet_info(model: nn.Module, pretrained: bool) -> ImageNetInfo | None:
    """Return what timm knows of the classes of its own weights, if these classify ImageNet."""
    subset, tag = infer_imagenet_subset(model), _config(model).get("tag") or ""
    return ImageNetInfo(subset) if pretrained and subset and _IMAGENET_TAG.fullmatch(tag) else None


def _configured_names(config: dict[str, Any]) -> list[str]:
    """Return the descriptions of the labels in a ``config.json``, or else their names."""
    labels, descriptions = config.get("label_names") or (), config.get("label_descriptions") or {}
    return [str(descriptions.get(label, label) if isinstance(descriptions, dict) else label) for label in labels]
