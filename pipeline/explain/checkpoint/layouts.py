"""Conversion of state dicts to the names and shapes of a timm network, and what still differs.

To read another layout, add a converter to ``_CONVERTERS``.
"""

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from inspect import signature

import timm
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


def convert(weights: StateDict, network: nn.Module, architecture: str) -> tuple[StateDict, Difference]:
    """Convert a state dict to one that a network loads, or as close as it gets.

    Args:
        weights: as read from a file.
        network: of the architecture; its tensors may be on the meta device.
        architecture: timm name.

    Returns:
        The converted state dict, and what still differs.
    """
    best: tuple[StateDict, Difference] | None = None
    for candidate in _candidates(weights, network, architecture):
        difference = compare(candidate, network)
        if best is None or len(difference) < len(best[1]):
            best = candidate, difference
        if not len(difference):
            break
    assert best is not None
    return best


def compare(weights: StateDict, network: nn.Module) -> Difference:
    """Compare a state dict with that of a network."""
    expected = network.state_dict()

    def text(tensors: StateDict, name: str) -> str:
        return f"{name[:80].encode('unicode_escape').decode()} {list(tensors[name].shape)}"

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


def without_prefix(weights: StateDict) -> StateDict:
    """Strip the parts that all names begin with, such as ``module.`` or ``model.backbone.``."""
    while all("." in name for name in weights) and len({name.partition(".")[0] for name in weights}) == 1:
        weights = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    return weights


def _candidates(weights: StateDict, network: nn.Module, architecture: str) -> Iterator[StateDict]:
    stripped = without_prefix(weights)
    yield stripped
    for names in [stripped] + [weights] * (weights.keys() != stripped.keys()):
        for converter in _CONVERTERS:
            converted = converter(names, network, architecture)
            if converted is not None:
                yield converted


def _without_mask_token(weights: StateDict, network: nn.Module, architecture: str) -> StateDict | None:
    """Leave out the token that stood for hidden patches during pre-training."""
    if "mask_token" not in weights:
        return None
    return {name: tensor for name, tensor in weights.items() if name != "mask_token"}


def _by_timm(weights: StateDict, network: nn.Module, architecture: str) -> StateDict | None:
    """Convert by timm's own filter: old and original layouts of the architecture.

    The filter also resizes position embeddings and patches, and leaves biases out that the network lacks. Both change
    the function, so such tensors are put back: they are then named as a difference.
    """
    module = sys.modules[timm.models.model_entrypoint(architecture.partition(".")[0]).__module__]
    timm_filter = getattr(module, "checkpoint_filter_fn", None)
    if timm_filter is None:
        return None
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in signature(timm_filter).parameters else {}
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            converted: StateDict = timm_filter(dict(weights), network, **options)
    except (LookupError, ValueError, TypeError, RuntimeError, AttributeError, AssertionError):
        return None  # it is not for this layout
    given = {_storage(tensor) for tensor in weights.values()}
    for name, tensor in converted.items():
        if name in weights and tensor.shape != weights[name].shape and _storage(tensor) not in given:
            converted[name] = weights[name]
    used = {_storage(tensor) for tensor in converted.values()}
    for name, tensor in weights.items():
        if re.search(r"\bblocks\..*\bbias$", name) and _storage(tensor) not in used and tensor.any():
            converted[name] = tensor
    return converted


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


_CONVERTERS: tuple[Callable[[StateDict, nn.Module, str], StateDict | None], ...] = (_without_mask_token, _by_timm)
