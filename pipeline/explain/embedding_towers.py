"""Towers of image–text models, whose last layer projects into the embedding space that they share with texts."""

import re
from functools import cache
from typing import Any

import timm
from torch import nn

_NAMES = re.compile(r"(^|_)(clip|siglip|mci|pe_core)(_|$)")
"""In the names of timm's towers, or in their tags. A tag with ``_ft_`` is a classifier made of one."""


def is_projection(model: Any, width: int) -> bool:
    """Return whether the last layer is such a projection and no classifier.

    The layout of its weights may say so (``projects`` of its classifier); else it is so for a tower by its name or tag,
    or by its norm in front of the blocks, if the last layer is as wide as the embeddings of a tower that timm knows. A
    network that names its classes is a classifier.

    Args:
        model: a network of timm.
        width: length of the output of its last layer.
    """
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    stated: bool | None = getattr(classifier, "projects", None)
    if stated is not None:
        return stated
    config = getattr(model, "pretrained_cfg", None) or {}
    named = _names_tower(str(config.get("architecture", "")), str(config.get("tag", "")))
    norm = getattr(model, "norm_pre", None)
    is_tower = named or (norm is not None and not isinstance(norm, nn.Identity))
    return is_tower and width in embedding_widths() and len(config.get("label_names") or ()) != width


def _names_tower(architecture: str, tag: str) -> bool:
    return bool(_NAMES.search(architecture)) or (bool(_NAMES.search(tag)) and "_ft_" not in tag)


@cache
def embedding_widths() -> frozenset[int]:
    """Return the lengths of the embeddings of all towers that timm knows."""
    names = [name.partition(".") for name in timm.list_pretrained()]
    towers = ["".join(name) for name in names if _names_tower(name[0], name[2]) and "_ft_" not in name[2]]
    configs = [timm.get_pretrained_cfg(name) for name in towers]
    return frozenset(config.num_classes for config in configs if config is not None and config.num_classes)
