"""The read-out of the last features of a network that is no plain vision transformer: run on other features, and tried.

What it is a function of is found by trying on random features, whatever its code is. Call what tries it inside
``preserve_model_state(model)``, without autograd.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.network import FeatureLayer

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest error of a read-out by its dtype, as a fraction of the difference between the logits of two images."""

_SCALES = {torch.float64: (4, 4e4), torch.float32: (4, 4e4), torch.bfloat16: (4, 4e4), torch.float16: (4, 400)}
"""Sizes of random features: where weights are small, an activation function is nearly linear on small features."""


def to_map(values: Tensor, layer: FeatureLayer, prefix: Tensor | None = None) -> Tensor:
    """Arrange features of positions as the network has them, in memory that it may overwrite.

    Args:
        values: [B, h, w, D], or a mean of them [B, 1, 1, D].
        layer: their place.
        prefix: tokens before them, [B, P, D]; by default 0.
    """
    if layer.fills and values.shape[1:3] == (1, 1):
        values = values.expand(-1, *layer.grid, -1)
    if layer.layout == "NCHW":
        return values.clone().permute(0, 3, 1, 2)
    if layer.layout == "NHWC":
        return values.clone()
    tokens = values.flatten(1, 2)
    if prefix is None:
        prefix = tokens.new_zeros(len(tokens), layer.prefix_tokens, tokens.shape[2])
    return torch.cat([prefix, tokens], 1)


def to_positions(features: Tensor, layer: FeatureLayer) -> Tensor:
    """Return the features of the positions: [B, N, D]."""
    if layer.layout == "NCHW":
        return features.flatten(2).transpose(1, 2)
    return features.flatten(1, 2) if layer.layout == "NHWC" else features[:, layer.prefix_tokens :]


def run_readout(model: Any, layer: FeatureLayer, features: Tensor) -> Tensor:
    """Compute the logits [B, C] of the last features, which may be overwritten, by the network's own code.

    Args:
        model: the network.
        layer: the place of the last features.
        features: as the network has them, or a mean of them as a grid of one cell.
    """
    logits: Tensor = layer.code.logits(model, features) if layer.code else model.forward_head(features)
    return logits


def depends_on_positions(model: nn.Module, layer: FeatureLayer) -> bool:
    """Return whether the read-out changes with the features of positions, by trying."""
    if next(model.parameters()).is_meta:  # there are no values to try
        return True
    logits = _read(model, layer, _random_features(model, layer))
    return not bool((logits == logits[:1]).all())


def try_read_out(model: nn.Module, layer: FeatureLayer) -> tuple[bool, bool]:
    """Return whether the read-out is a function of the mean of the grid, and whether that one is linear.

    Both by trying on random features; a linear function may have a constant.
    """
    features, points = _random_features(model, layer), _random_points(model, layer)
    try:  # the means first, since the other takes longer, and in vain if a single cell is refused
        of_means, of_lines = _read(model, layer, points).split([len(features), len(features) // 2])
        logits = _read(model, layer, features)
        prefix = features[:, 0, : layer.prefix_tokens] + 1
        of_prefix = _read(model, layer, features, prefix) if layer.prefix_tokens else logits
    except (RuntimeError, AssertionError, ValueError):  # it takes no grid of one cell
        return False, False
    if not (_are_equal(model, logits, of_means) and _are_equal(model, logits, of_prefix)):
        return False, False
    one, other = of_means[0::2], of_means[1::2]
    expected, found = (torch.stack([line, other], 1).flatten(0, 1) for line in (2 * one - other, of_lines))
    return True, _are_equal(model, expected, found)


def returns_output_of(model: nn.Module, path: str, layer: FeatureLayer) -> bool:
    """Return whether ``forward_head`` runs a module once and returns its output, by trying on random features."""
    outputs: list[Tensor] = []
    with model.get_submodule(path).register_forward_hook(lambda *call: outputs.append(call[2].clone())):
        logits = _read(model, layer, _random_features(model, layer))
    return len(outputs) == 1 and torch.equal(outputs[0].flatten(1).double(), logits)


def _random_features(model: nn.Module, layer: FeatureLayer) -> Tensor:
    """Return random features [2 S, h, w, D], two of each of the sizes that are tried."""
    weights = next(model.parameters())
    return _random_numbers((*layer.grid, layer.channels), weights.dtype, weights.device)


def _random_points(model: nn.Module, layer: FeatureLayer) -> Tensor:
    """Return their means over the grid, and of each two a third point on the line through them [3 S, 1, 1, D]."""
    weights = next(model.parameters())
    return _random_means((*layer.grid, layer.channels), weights.dtype, weights.device)


@lru_cache(maxsize=8)
def _random_numbers(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    random = torch.Generator().manual_seed(0)
    # A mean of its own for each channel and image, so that the mean over the grid is not near 0.
    features = torch.randn(2, *shape, generator=random) + torch.randn(2, 1, 1, shape[2], generator=random)
    return torch.cat([scale * features for scale in _SCALES[dtype]]).to(device, dtype)


@lru_cache(maxsize=8)
def _random_means(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    means = _random_numbers(shape, dtype, device).mean((1, 2), keepdim=True)
    return torch.cat([means, 2 * means[0::2] - means[1::2]])


def _read(model: Any, layer: FeatureLayer, features: Tensor, prefix: Tensor | None = None) -> Tensor:
    """Compute the logits [B, C] of features [B, h, w, D]."""
    return run_readout(model, layer, to_map(features, layer, prefix)).double()


def _are_equal(model: nn.Module, one: Tensor, other: Tensor) -> bool:
    """Return whether logits [2 S, C] differ by no more than rounding, beside what two images differ by.

    Where a constant is so large that rounding hides the images, they are not equal, since nobody can tell.
    """
    dtype = next(model.parameters()).dtype
    allowed = _TOLERANCES[dtype] * (one[0::2] - one[1::2]).abs().amax(1)
    errors = (one - other).abs().unflatten(0, (-1, 2)).amax((1, 2))
    rounding = torch.finfo(dtype).eps * one.abs().unflatten(0, (-1, 2)).amax((1, 2))
    return bool(((errors <= allowed) & (rounding <= allowed)).all())
