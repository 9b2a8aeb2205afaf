"""What still differs between a state dict and a network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

StateDict = dict[str, Tensor]

_SHOWN = 5


@dataclass(frozen=True)
class Difference:
    """Tensors in which a state dict differs from a network, each as text: name and shape.

    Attributes:
        missing: tensors of the network that the state dict lacks.
        unknown: tensors that the network lacks.
        misshapen: tensors of another shape or kind of number.
    """

    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.misshapen)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unknown", self.unknown), ("of another shape", self.misshapen))
        return "; ".join(f"{_count(names)} {kind}: {_group(names)}" for kind, names in kinds if names)


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} tensors are" if len(names) > 1 else "1 tensor is"


def _group(tensors: Sequence[str]) -> str:
    """List tensors; those that differ only in the number of their block are one entry."""
    groups: dict[str, int] = {}
    for tensor in tensors:
        group = re.sub(r"\.\d+\.", ".*.", tensor)
        groups[group] = groups.get(group, 0) + 1
    shown = [name + (f" ({count} times)" if count > 1 else "") for name, count in list(groups.items())[:_SHOWN]]
    more = len(groups) - _SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def printable(name: str) -> str:
    """Return the name of a tensor for messages and records: escaped, and not longer than is useful."""
    return name[:80].encode("unicode_escape").decode()


def compare(weights: StateDict, network: nn.Module) -> Difference:
    """Compare a state dict with that of a network."""
    expected = network.state_dict()

    def text(tensors: StateDict, name: str) -> str:
        return f"{printable(name)} {list(tensors[name].shape)}"

    return Difference(
        missing=[text(expected, name) for name in expected if name not in weights],
        unknown=[text(weights, name) for name in weights if name not in expected],
        misshapen=[
            f"{text(weights, name)}, not {list(tensor.shape)}"
            if weights[name].shape != tensor.shape
            else f"{text(weights, name)} in {weights[name].dtype}"
            for name, tensor in expected.items()
            if name in weights
            and (weights[name].shape != tensor.shape or weights[name].is_floating_point() != tensor.is_floating_point())
        ],
    )
