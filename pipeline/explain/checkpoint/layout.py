"""Layout of weights: the names that a library gives to the tensors of a vision transformer, and timm's for them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.explain.checkpoint.difference import StateDict

Rows = tuple[tuple[str, str], ...]
"""Patterns of names with their replacements. All are applied, in this order. Names that end up as ``…[0]…``,
``…[1]…`` are parts of one tensor, concatenated along its first dimension."""


@dataclass(frozen=True)
class Layout:
    """How one library names the tensors of a network, and what it computes with them where timm may do otherwise.

    Attributes:
        name: for users and ``run.json``.
        marks: patterns of names, each of which its files have.
        rows: from its names to timm's.
        architecture: a network of timm of any size; None where names and shapes do not tell.
        unused: patterns of names, in timm's terms, of tensors that the logits do not depend on.
        read_out: what the classifier reads: a pooling in timm's terms, or ``token+mean``. None where the tensors tell.
        backbone_read_out: the same for files without a classifier, where it is another.
        epsilon: of its norms; None leaves that of the architecture.
        activation: of its MLPs, in timm's terms; None leaves that of the architecture.
        normalization: mean and standard deviation of the images of all of its weights; None where they differ.
        projects: its last layer projects into an embedding space, and is no classifier.
        arguments: of the constructor of timm's network.
        finish: changes that are more than another name.
    """

    name: str
    marks: tuple[str, ...]
    rows: Rows
    architecture: str | None = None
    unused: tuple[str, ...] = ()
    read_out: str | None = None
    backbone_read_out: str | None = None
    epsilon: float | None = None
    activation: str | None = None
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    projects: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[StateDict], StateDict] = lambda weights: weights

    def matches(self, weights: StateDict) -> bool:
        """Return whether a state dict has the names of this layout."""
        return all(any(re.search(mark, name) for name in weights) for mark in self.marks)

    def rename(self, weights: StateDict) -> tuple[StateDict, tuple[str, ...]]:
        """Give the tensors of a state dict their names in timm.

        Returns:
            The renamed tensors, and the names of those that are left out.
        """
        renamed: StateDict = {}
        left_out = []
        for name, tensor in weights.items():
            new = name
            for pattern, replacement in self.rows:
                new = re.sub(pattern, replacement, new)
            if any(re.search(pattern, new) for pattern in self.unused):
                left_out.append(name)
            else:
                renamed[new] = tensor
        return self.finish(_joined(renamed)), tuple(left_out)

    def read_out_of(self, weights: StateDict) -> str | None:
        """Return what is read out of renamed weights."""
        return self.read_out if "head.weight" in weights or not self.backbone_read_out else self.backbone_read_out


def _joined(weights: StateDict) -> StateDict:
    """Concatenate tensors that are parts of one."""
    parts: dict[str, dict[int, Tensor]] = {}
    joined: StateDict = {}
    for name, tensor in weights.items():
        if part := re.search(r"\[(\d)\]", name):
            parts.setdefault(name.replace(part[0], ""), {})[int(part[1])] = tensor
        else:
            joined[name] = tensor
    for name, tensors in parts.items():
        if len(tensors) == max(tensors) + 1 and len({tensor.shape[1:] for tensor in tensors.values()}) == 1:
            joined[name] = torch.cat([tensors[index] for index in sorted(tensors)])
        else:  # named as a difference
            joined |= {f"{name} (part {index + 1})": tensor for index, tensor in tensors.items()}
    return joined
