"""The grids of features of a network that is no plain vision transformer: the last one, and those of its stages."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.explain.feature_readout import depends_on_positions
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


class NoFeatureGrid(Exception):  # noqa: N818 – a finding, which the description states
    """A network without a grid of features in front of its read-out, with the reason."""


def find_features(model: Any, run: ShapeRun, size: tuple[int, int]) -> tuple[FeatureLayer, ...]:
    """Find the last grid of features and those of the stages, the last one first.

    Call it inside ``preserve_model_state(model)``, without autograd.

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
        if layer.layout != "NLC" or depends_on_positions(model, layer):
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
