"""The grids of features of a network that is no plain vision transformer, and how its classifier reads the last one."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.network import LAST, FeatureLayer, Layout
from pipeline.explain.readout_code import NoReadout, find_readout, prove_readout, trace_forward
from pipeline.explain.shape_run import ShapeRun

_CLASS_ATTENTION = ("blocks_token_only", "cls_attn_blocks")
"""Names of blocks behind ``blocks`` in which a class token attends to the others."""

_BEFORE_CLASS_TOKEN: dict[str, Callable[[Any], str]] = {
    "CoaT": lambda model: f"serial_blocks4.{len(model.serial_blocks4) - 2}" if model.parallel_blocks is None else "",
    "PoolingVisionTransformer": lambda model: (
        f"transformers.{len(model.transformers) - 1}.blocks.{len(model.transformers[-1].blocks) - 2}"
    ),
    "TNT": lambda model: f"blocks.{len(model.blocks) - 1}.norm_out",
    "VOLO": lambda model: f"network.{len(model.network) - 1}" if model.post_network is not None else "",
}
"""Paths of the last features that a class token is read from, by the class of the network; empty if there are none."""

_STAGES = range(1, 5)
"""Stages that a method can be read at: stage k is the last place where a cell is 2 to the k + 1 pixels wide."""

_ROW_BY_ROW = ("EfficientFormer", "Levit", "LevitDistilled", "MultiScaleVit", "Twins", *_BEFORE_CLASS_TOKEN)
"""Networks of stages whose tokens are the cells of a grid, row by row."""

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest error of a read-out by its dtype, as a fraction of the difference between the logits of two images."""

_SCALES = {torch.float64: (4, 4e4), torch.float32: (4, 4e4), torch.bfloat16: (4, 4e4), torch.float16: (4, 400)}
"""Sizes of random features: where weights are small, an activation function is nearly linear on small features."""


class NoFeatureGrid(Exception):  # noqa: N818 – a finding, which the description states
    """A network without a grid of features in front of its read-out, with the reason."""


def find_features(model: Any, run: ShapeRun, size: tuple[int, int]) -> tuple[FeatureLayer, ...]:
    """Find the last grid of features and those of the stages, the last one first.

    Call it and what follows inside ``preserve_model_state(model)``, without autograd.

    Args:
        model: the network.
        run: of one image.
        size: height and width of the image.

    Raises:
        NoFeatureGrid: there is none; the message gives the reason.
    """
    return _find_last(model, run, size), *_find_stages(model, run, size)


def _find_last(model: Any, run: ShapeRun, size: tuple[int, int]) -> FeatureLayer:
    """Find the grid that the read-out sees: the input of ``forward_head``, or else the output of a module."""
    for name in _CLASS_ATTENTION:
        if getattr(model, name, None):
            last = f"blocks.{len(model.blocks) - 1}"
            return _before_class_token(model, run, last, size)
    kind = type(model).__name__
    if kind in _BEFORE_CLASS_TOKEN and getattr(model, "global_pool", None) == "token":
        path = _BEFORE_CLASS_TOKEN[kind](model)
        if path in run.outputs:
            return _before_class_token(model, run, path, size)
    if run.ends_in_head and len(run.head_inputs) == 1 and run.head_inputs[0] is not None:
        layer = _layer(model, LAST, "", run.head_inputs[0], size)
        if layer.layout != "NLC" or _depends_on_positions(model, layer):
            return layer
        return _before_last_block(model, run, size)
    if hasattr(model, "forward_head"):
        raise NoFeatureGrid("its read-out does not take one grid of features")
    return _before_own_code(model, run, size)


def _before_own_code(model: Any, run: ShapeRun, size: tuple[int, int]) -> FeatureLayer:
    """Return the last grid of a network without ``forward_head``, and the code behind it where that can be run apart.

    Raises:
        NoFeatureGrid: there is none.
    """

    def grid_of(shape: tuple[int, ...]) -> tuple[int, int] | None:
        try:
            return _layer(model, LAST, "", shape, size).grid if len(shape) == 4 else None
        except NoFeatureGrid:
            return None  # such as a mean

    last = next((path for path, shape in reversed(run.outputs.items()) if len(shape) == 3 or grid_of(shape)), None)
    if last is None:
        raise NoFeatureGrid("none of its modules returns features on a grid")
    if len(run.outputs[last]) == 3:
        raise NoFeatureGrid("its features are a sequence of tokens, and their places in the image are not known")
    if run.readout is None:
        grids = [path for path, shape in run.outputs.items() if grid_of(shape)]
        try:
            run.readout = find_readout(model, trace_forward(model, grids), run.outputs, grid_of)
            if not next(model.parameters()).is_meta:
                prove_readout(model, run.readout, size)
        except NoReadout as refusal:
            run.readout = refusal
    if isinstance(run.readout, NoReadout):
        return replace(_layer(model, LAST, last, run.outputs[last], size), no_readout=str(run.readout))
    return replace(_layer(model, LAST, run.readout.path, run.readout.shape, size), code=run.readout)


def _before_last_block(model: Any, run: ShapeRun, size: tuple[int, int]) -> FeatureLayer:
    """Return the input of the last block: what a classifier reads that sees a class token only."""
    blocks = getattr(model, "blocks", None)
    path = f"blocks.{len(blocks) - 2}" if blocks is not None and len(blocks) > 1 else ""
    if path not in run.outputs:
        raise NoFeatureGrid("its classifier reads a class token, and it has no list of blocks in front of it")
    return _before_class_token(model, run, path, size)


def _before_class_token(model: Any, run: ShapeRun, path: str, size: tuple[int, int]) -> FeatureLayer:
    """Return features that class tokens read by attention in the blocks behind them."""
    layer = _layer(model, LAST, path, run.outputs[path], size)
    return replace(layer, no_readout="a class token reads them by attention, in blocks of their own")


def _find_stages(model: Any, run: ShapeRun, size: tuple[int, int]) -> list[FeatureLayer]:
    """Find the stages by ``feature_info``, which timm's networks have."""
    info = getattr(model, "feature_info", None) or ()
    found: dict[str, FeatureLayer] = {}
    for entry in getattr(info, "info", info):
        path, reduction = entry.get("module", ""), entry.get("reduction", 0)
        name = f"stage{int(reduction).bit_length() - 2}"
        if path not in run.outputs or reduction not in [2 ** (stage + 1) for stage in _STAGES]:
            continue
        try:
            layer = _layer(model, name, path, run.outputs[path], size)
        except NoFeatureGrid:
            continue  # such as the input of a stage
        if layer.grid == tuple(-(-side // reduction) for side in size):
            found[name] = layer
    return list(found.values())


def _layer(model: Any, name: str, path: str, shape: tuple[int, ...], size: tuple[int, int]) -> FeatureLayer:
    """Describe activations of a shape.

    Raises:
        NoFeatureGrid: they do not lie on a grid over the image, or not on a known one.
    """
    if len(shape) == 3:
        grid, prefix = _token_grid(model, shape[1], size)
        return FeatureLayer(name, path, "NLC", shape[2], grid, prefix)
    if len(shape) != 4:
        raise NoFeatureGrid(f"its features have the shape {list(shape)}, which is no grid")
    readings: list[tuple[Layout, int, tuple[int, int]]] = [
        ("NCHW", shape[1], (shape[2], shape[3])),
        ("NHWC", shape[3], (shape[1], shape[2])),
    ]
    possible = [reading for reading in readings if _covers(reading[2], size)]
    if len(possible) > 1:
        stated = getattr(getattr(model, "output_fmt", None), "value", None)
        possible = [each for each in possible if each[0] == stated] or [
            each for each in possible if each[1] == getattr(model, "num_features", None)
        ]
    if len(possible) != 1:
        raise NoFeatureGrid(f"its features have the shape {list(shape)}, which is no grid of more than one cell")
    layout, channels, grid = possible[0]
    return FeatureLayer(name, path, layout, channels, grid)


def _covers(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether a grid has several cells, and as many as fit the sides of an image, up to one."""
    (rows, columns), (height, width) = grid, size
    fits = abs(height * columns - width * rows) <= max(height, width)
    return rows * columns > 1 and rows <= height and columns <= width and fits


def _token_grid(model: Any, length: int, size: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Return the grid of a sequence of tokens and the number of tokens before it.

    The order is known where the tokens are those of the patch embedding, which no code of timm reorders, and for the
    classes below.
    """
    embed: Any = getattr(model, "patch_embed", getattr(model, "stem", None))
    kind = type(model).__name__
    if kind == "Hiera":
        strides, (rows, columns) = [*model.reroll.schedule.values()][-1]
        if not strides and rows * columns == length:  # after the last stage nothing is left to be put in order
            return (int(rows), int(columns)), 0
        raise NoFeatureGrid("its last tokens are not in the order of the image")
    prefix = int(getattr(model, "num_prefix_tokens", 0)) or int(getattr(model, "cls_token", None) is not None)
    grids = []
    if getattr(embed, "grid_size", None) is not None:
        grids.append(tuple(embed.grid_size))
    if kind in _ROW_BY_ROW:
        reduction = model.feature_info[-1]["reduction"]
        grids.append(tuple(-(-side // reduction) for side in size))
    if kind == "Xcit":
        grids.append(tuple(side // embed.patch_size for side in size))
    for rows, columns in grids:
        before = length - rows * columns
        if rows * columns > 1 and (before in (prefix, 0) or (kind in _BEFORE_CLASS_TOKEN and before in (1, 2))):
            return (int(rows), int(columns)), before
    if length <= 2:
        raise NoFeatureGrid("its read-out takes class tokens only, and no grid of features")
    raise NoFeatureGrid("its features are a sequence of tokens, and their places in the image are not known")


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


def _depends_on_positions(model: nn.Module, layer: FeatureLayer) -> bool:
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


def run_readout(model: Any, layer: FeatureLayer, features: Tensor) -> Tensor:
    """Compute the logits [B, C] of the last features, which may be overwritten, by the network's own code.

    Args:
        model: the network.
        layer: the place of the last features.
        features: as the network has them, or a mean of them as a grid of one cell.
    """
    logits: Tensor = layer.code.logits(model, features) if layer.code else model.forward_head(features)
    return logits


def _are_equal(model: nn.Module, one: Tensor, other: Tensor) -> bool:
    """Return whether logits [2 S, C] differ by no more than rounding, beside what two images differ by.

    Where a constant is so large that rounding hides the images, they are not equal, since nobody can tell.
    """
    dtype = next(model.parameters()).dtype
    allowed = _TOLERANCES[dtype] * (one[0::2] - one[1::2]).abs().amax(1)
    errors = (one - other).abs().unflatten(0, (-1, 2)).amax((1, 2))
    rounding = torch.finfo(dtype).eps * one.abs().unflatten(0, (-1, 2)).amax((1, 2))
    return bool(((errors <= allowed) & (rounding <= allowed)).all())
