"""Plot maps of one sample over its image, side by side."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.image import PreprocessConfig, apply_colormap, blend_heatmap, upsample_to_image
from pipeline.store.frame import Frame
from pipeline.store.images import read_images
from pipeline.store.shard_maps import ShardMaps
from pipeline.utils.io import refuse_commands
from schemas.errors import AtlasError
from schemas.targets import is_text
from schemas.text import escape_control

_PANEL_PIXELS = 320
"""Longest side of an image, in pixels."""
_PANELS_PER_ROW = 6
_TEXT_LENGTH = 80
"""Characters of a text in the title."""
_PANEL_INCHES = 2.2
_TRANSFORM_COLUMNS = ("scale_x", "scale_y", "offset_x", "offset_y")


def plot_maps(
    shard: ShardMaps, sample: dict[str, Any], maps: dict[str, NDArray[np.float32]], target: str
) -> Image.Image:
    """Plot maps of one sample over its image, in panels after the image itself. Without it, if it cannot be read.

    Args:
        shard: shard of the sample.
        sample: its row of the sample table.
        maps: float32 [h, w] in [0, 1], by method.
        target: target kind of the maps, for the title.
    """
    from matplotlib.figure import Figure  # takes half a second, and few need it

    small = _shrink(sample)
    image = _read_image(shard, sample, small)
    panels = {} if image is None else {"image": image}
    for method, values in maps.items():
        frame = shard.frame(method)
        view = small if frame == Frame.of(shard.run) else _shrink(shard.views(method)[sample["ordinal"]])
        heatmap = upsample_to_image(values, view, frame.input_size)
        panels[method] = apply_colormap(heatmap) if image is None else blend_heatmap(image, heatmap)
    columns = min(_PANELS_PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    aspect = small["height"] / small["width"]
    size = (_PANEL_INCHES * columns, _PANEL_INCHES * aspect * rows + 0.6)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        axis.imshow(panel)
        axis.set_title(title, fontsize=8, parse_math=False)
    for axis in axes:
        axis.set_axis_off()
    label, prediction = (_named(sample[column], shard.run.class_names) for column in ("label", "prediction"))
    explained = shard.run.target_in_words(target)
    if is_text(target):
        explained += f" “{sample['target_texts'][shard.run.spec.target_names.index(target)][:_TEXT_LENGTH]}”"
    title = f"{sample['key']}: maps of the {explained}, label {label}, prediction {prediction}"
    figure.suptitle(escape_control(title), fontsize=8, x=0.01, ha="left", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _named(class_id: int | None, names: Sequence[str]) -> str:
    """Return a class id with the name of the class, where it has one."""
    return f"{class_id} ({names[class_id]})" if class_id is not None and 0 <= class_id < len(names) else str(class_id)


def _shrink(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the sample as if its image were no larger than a panel."""
    width, height = sample["width"], sample["height"]
    scale = min(1.0, _PANEL_PIXELS / max(width, height))
    size = {"width": max(1, round(scale * width)), "height": max(1, round(scale * height))}
    x, y = size["width"] / width, size["height"] / height
    return sample | size | {name: sample[name] * (x if name.endswith("x") else y) for name in _TRANSFORM_COLUMNS}


def _read_image(shard: ShardMaps, sample: dict[str, Any], small: dict[str, Any]) -> NDArray[np.uint8] | None:
    """Return the image of a sample, uint8 [H, W, 3]; None, with a warning, if it cannot be read."""
    preprocess = PreprocessConfig(small["width"], small["height"], "bicubic", "squash", 1.0, "center")
    try:
        refuse_commands([shard.planned.url], allow_pipe=False)
        _, (pixels,) = next(read_images(shard, [sample["ordinal"]], 1, preprocess=preprocess))
    except (AtlasError, OSError) as error:
        warnings.warn(escape_control(f"the maps are shown without their image: {error}"), stacklevel=4)
        return None
    return np.asarray(pixels).transpose(1, 2, 0)
