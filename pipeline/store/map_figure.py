"""Maps of one sample over its picture, beside each other."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.image import PreprocessConfig, apply_colormap, blend_heatmap, upsample_to_image
from pipeline.store.images import pictures
from pipeline.utils.io import refuse_commands
from schemas.errors import AtlasError
from schemas.text import escape_control

if TYPE_CHECKING:
    from pipeline.store.atlas import Atlas

_SIDE = 320
"""Longest side of a panel, in pixels of what is drawn."""
_ACROSS = 6
"""Panels beside each other."""
_INCHES = 2.2
"""Of a panel."""


def show(atlas: "Atlas", sample: dict[str, Any], maps: dict[str, NDArray[np.float32]], target: str) -> Image.Image:
    """Maps of one sample over its picture, a panel each behind the picture itself; alone where it cannot be read.

    Args:
        sample: its row of the sample table.
        maps: float32 [h, w] in [0, 1], by method.
        target: whose maps these are, for the title.
    """
    from matplotlib.figure import Figure  # half a second, and few draw

    small = _small(sample)
    picture = _picture(atlas, sample, small)
    panels = {} if picture is None else {"image": picture}
    for method, values in maps.items():
        heat = upsample_to_image(values, small, atlas.run.model.input_size)
        panels[method] = apply_colormap(heat) if picture is None else blend_heatmap(picture, heat)
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    aspect = small["height"] / small["width"]
    figure = Figure(figsize=(_INCHES * across, _INCHES * aspect * down + 0.6), dpi=110, layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        axis.imshow(panel)
        axis.set_title(title, fontsize=8, parse_math=False)
    for axis in axes:
        axis.set_axis_off()
    said = f"{sample['key']}: maps of the {target}, label {sample['label']}, prediction {sample['prediction']}"
    figure.suptitle(escape_control(said), fontsize=8, x=0.01, ha="left", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _small(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample as if its picture were no larger than what is drawn."""
    width, height = sample["width"], sample["height"]
    share = min(1.0, _SIDE / max(width, height))
    size = {"width": max(1, round(share * width)), "height": max(1, round(share * height))}
    x, y = size["width"] / width, size["height"] / height
    placed = {name: sample[name] * (x if name.endswith("x") else y) for name in _PLACED}
    return sample | size | placed


_PLACED: Sequence[str] = ("scale_x", "scale_y", "offset_x", "offset_y")


def _picture(atlas: "Atlas", sample: dict[str, Any], small: dict[str, Any]) -> NDArray[np.uint8] | None:
    """The picture of a sample from its shard, uint8 [H, W, 3]; None, with a warning, where it cannot be had."""
    part = atlas.shard(sample["shard"])
    frame = PreprocessConfig(small["width"], small["height"], "bicubic", "squash", 1.0, "center")
    try:
        refuse_commands([atlas.run.shards[part.commit.shard_index].url], allow_pipe=False)
        _, (pixels,) = next(pictures(atlas.run, part, [sample["ordinal"]], 1, frame=frame))
    except (AtlasError, OSError) as error:
        warnings.warn(escape_control(f"the maps are shown without their picture: {error}"), stacklevel=4)
        return None
    return np.asarray(pixels).transpose(1, 2, 0)
