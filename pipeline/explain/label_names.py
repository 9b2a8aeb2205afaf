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
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names: Sequence[str] = _configured_names(config)
    subset = infer_imagenet_subset(model)
    if not names and pretrained and subset and _IMAGENET_TAG.fullmatch(config.get("tag") or ""):
        names = list(ImageNetInfo(subset).label_descriptions())
    return tuple(names) if len(names) == getattr(model, "num_classes", 0) else ()


def _configured_names(config: dict[str, Any]) -> list[str]:
    """Return the descriptions of the labels in a ``config.json``, or else their names."""
    labels, descriptions = config.get("label_names") or (), config.get("label_descriptions") or {}
    return [str(descriptions.get(label, label) if isinstance(descriptions, dict) else label) for label in labels]
