"""How the weights of a file became those of a network, for ``run.json``."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from pipeline.explain.checkpoint.difference import StateDict, printable
from pipeline.explain.checkpoint.recognize import Renamed
from schemas.errors import UsageError
from schemas.model import ConversionRecord, PositionsRecord

BY_TIMM = "older versions, by timm's own filter"
"""Name of the layout of older and original names that timm itself converts."""

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}
"""Names of activations in timm by those of their classes."""


def describe_conversion(given: Renamed, model: Any, converted: StateDict) -> ConversionRecord | None:
    """Describe a conversion; None where the file had timm's names and sizes.

    Args:
        given: the weights.
        model: the network that has them.
        converted: what it has loaded.
    """
    used = {tensor.untyped_storage().data_ptr() for tensor in converted.values()}
    unused = [
        name
        for name, tensor in given.weights.items()
        if name not in converted and tensor.untyped_storage().data_ptr() not in used
    ]
    positions = _resampling(given.weights, converted, model)
    if given.layout is None and converted.keys() == given.weights.keys():
        return None if positions is None else ConversionRecord(layout="timm", positions=positions)
    left_out = given.left_out if given.layout else tuple(unused)
    blocks = getattr(model, "blocks", None)
    mlp = getattr(blocks[0], "mlp", None) if blocks else None
    norms = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    return ConversionRecord(
        layout=given.layout.name if given.layout else BY_TIMM,
        left_out=_parts(left_out, given.names.difference(left_out)),
        epsilon=norms.pop() if len(norms) == 1 else None,
        activation=ACTIVATIONS.get(type(getattr(mlp, "act", None)).__name__),
        positions=positions,
    )


def _parts(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Return names of tensors, those of a part that is left out as a whole as one entry, such as ``decoder.*``."""
    kept = {name[:end] for name in others for end, letter in enumerate(name) if letter == "."}
    parts = set()
    for name in names:
        ends = [end for end, letter in enumerate(name) if letter == "." and name[:end] not in kept]
        parts.add(f"{name[: ends[0]]}.*" if ends else name)
    return tuple(sorted(printable(part) for part in parts))


def _resampling(given: StateDict, converted: StateDict, model: Any) -> PositionsRecord | None:
    sides = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if sides is None:  # of a network whose weights do not depend on the size of images
        return None
    grid: tuple[int, int] = tuple(sides)
    for name, tensor in converted.items():
        side = grid_side(name, given[name], tensor, grid) if name in given else 0
        if side:
            table = name != "pos_embed"
            return PositionsRecord(
                from_grid=(side, side),
                to_grid=grid,
                interpolation="linear" if table else "bicubic",
                antialias=not table,
            )
    return None


def require_whole_patches(model: Any, image_size: int | None) -> None:
    """Refuse an image size whose last pixels no patch would see.

    Args:
        model: the network, with its weights or without.
        image_size: height and width that are asked for; None is the network's own.

    Raises:
        UsageError: it is no multiple of the patch size.
    """
    patch = max(getattr(getattr(model, "patch_embed", None), "patch_size", (1,)))
    if image_size is not None and image_size % patch:
        below, above = image_size // patch * patch, (image_size // patch + 1) * patch
        near = f"{below} or {above}" if below else above
        raise UsageError(f"--image-size {image_size}: is no multiple of the patches of {patch} pixels; use {near}")


def resampled_by_timm(usual: nn.Module, model: nn.Module) -> ConversionRecord | None:
    """Describe what timm does to its own weights for another image size; None if there is nothing to do.

    Args:
        usual: the network for the size of the weights.
        model: the same for another size.
    """
    positions = _resampling(usual.state_dict(), model.state_dict(), model)
    return None if positions is None else ConversionRecord(layout="timm", positions=positions)


def grid_side(name: str, given: Tensor, expected: Tensor, grid: tuple[int, int]) -> int:
    """Return the side of the square grid that a table of positions is for; 0 where it is none, or of the same size."""
    rows, columns = grid
    if name == "pos_embed" and given.ndim == expected.ndim == 3 and given.shape[1] != expected.shape[1]:
        return _root(given.shape[1] - expected.shape[1] + rows * columns)
    if name.endswith("relative_position_bias_table") and given.shape[0] != expected.shape[0]:
        offsets = _root(given.shape[0] - expected.shape[0] + (2 * rows - 1) * (2 * columns - 1))
        return (offsets + 1) // 2 if offsets % 2 else 0
    return 0


def _root(number: int) -> int:
    """Return the square root of a square number, otherwise 0."""
    root = math.isqrt(max(number, 0))
    return root if root * root == number else 0
