"""Weights under the names and in the shapes of a timm network."""

import io
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from inspect import signature
from typing import Any

import timm
from torch import Tensor, nn

from pipeline.explain.checkpoint.conversion import grid_side
from pipeline.explain.checkpoint.difference import Difference, StateDict, compare

_layers: Any = timm.layers
_TABLE = "relative_position_bias_table"


def convert(weights: StateDict, network: nn.Module, architecture: str, resample: bool) -> tuple[StateDict, Difference]:
    """Convert a state dict to one that a network loads, or as close as it gets.

    Args:
        weights: under timm's names, as far as their layout is known.
        network: of the architecture; its tensors may be on the meta device.
        architecture: timm name.
        resample: resample positions to the grid of the network.

    Returns:
        The converted state dict, and what still differs.
    """
    best: tuple[StateDict, Difference] | None = None
    for candidate in _candidates(weights, network, architecture):
        if resample:
            candidate = resample_positions(candidate, network)
        difference = compare(candidate, network)
        if best is None or len(difference) < len(best[1]):
            best = candidate, difference
        if not len(difference):
            break
    assert best is not None
    return best


def resample_positions(weights: StateDict, network: nn.Module) -> StateDict:
    """Resample positions and tables of relative positions to the grid of a network, as timm does.

    Absolute positions: bicubic with antialiasing. Relative ones: linear, between offsets that grow like a geometric
    series, as BEiT's authors do.

    Args:
        weights: in the shapes of the network, apart from positions.
        network: its tensors may be on the meta device.
    """
    parts: Any = network
    expected = network.state_dict()
    resampled = dict(weights)
    for name, tensor in weights.items():
        wanted = expected.get(name)
        if wanted is None or tensor.ndim != wanted.ndim or tensor.shape == wanted.shape:
            continue
        if name == "pos_embed":
            grid: tuple[int, int] = parts.patch_embed.grid_size
            prefix = wanted.shape[1] - grid[0] * grid[1]
            if grid_side(name, tensor, wanted, grid):
                resampled[name] = _layers.resample_abs_pos_embed(tensor, list(grid), num_prefix_tokens=prefix)
        elif name.endswith(_TABLE):
            window = network.get_submodule(name.removesuffix(f".{_TABLE}")).window_size
            with warnings.catch_warnings(action="ignore"):  # timm indexes by a list
                resampled[name] = _layers.resize_rel_pos_bias_table(tensor, window, wanted.shape)
    return resampled


def _candidates(weights: StateDict, network: nn.Module, architecture: str) -> Iterator[StateDict]:
    yield weights
    if "mask_token" in weights:  # it stood for hidden patches during pre-training
        yield {name: tensor for name, tensor in weights.items() if name != "mask_token"}
    expected = network.state_dict()
    yield {  # biases of 0 that the network does not have
        name: tensor
        for name, tensor in weights.items()
        if name in expected or not name.endswith("bias") or tensor.any()
    }
    by_timm = _by_timm(weights, network, architecture)
    if by_timm is not None:
        yield by_timm


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
