"""Weights under the names of timm, as far as their layout is known."""

import re
from dataclasses import dataclass

from pipeline.explain.checkpoint.difference import StateDict
from pipeline.explain.checkpoint.layout import Layout
from pipeline.explain.checkpoint.layouts import LAYOUTS
from schemas.errors import UsageError

MERGE_ADAPTERS = (
    "holds adapters of peft, not a network; merge them first, by "
    "PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(OUT), and give what that writes"
)


@dataclass(frozen=True)
class Renamed:
    """Weights under the names of timm, as far as their layout is known.

    Attributes:
        weights: by name.
        names: of the tensors as they were, without a common prefix.
        layout: None for names of timm, or of nobody.
        left_out: names of tensors that the logits do not depend on.
    """

    weights: StateDict
    names: frozenset[str]
    layout: Layout | None = None
    left_out: tuple[str, ...] = ()


def recognize(weights: StateDict, source: str) -> Renamed:
    """Find the layout of weights, and give them timm's names.

    Args:
        weights: as read from a file.
        source: of the weights, for error messages.

    Raises:
        UsageError: they are adapters, which are a network only together with another file.
    """
    if any(re.search(r"\.lora_[AB]\.|\.lora_(embedding|magnitude)|\.(hada|lokr|ia3)_", name) for name in weights):
        raise UsageError(f"{source}: {MERGE_ADAPTERS}")
    stripped = without_prefix(weights)
    for layout in LAYOUTS:
        if layout.matches(stripped):
            renamed, left_out = layout.rename(stripped)
            return Renamed(renamed, frozenset(stripped), layout, left_out)
    return Renamed(stripped, frozenset(stripped))


def without_prefix(weights: StateDict) -> StateDict:
    """Strip the parts that all names begin with, such as ``module.`` or ``model.backbone.``."""
    while all("." in name for name in weights) and len({name.partition(".")[0] for name in weights}) == 1:
        weights = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    return weights
