"""Color overlay of a map on its image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.image.orientation import apply_orientation, read_orientation
from pipeline.image.transforms import to_rgb
from pipeline.image.upsample import upsample_to_image
from schemas.errors import UsageError

_OPACITY = 0.6
"""Weight of the colors; the image has the rest."""


def overlay_heatmap(image: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """Overlay a map on the whole image, from blue at its minimum to red at its maximum.

    Args:
        image: any mode and size; its EXIF orientation is applied.
        values: float [h, w] on a grid that spans the image. A constant map is blue everywhere.

    Returns:
        RGB image of the same size.

    Raises:
        UsageError: the values are not one map, or not finite.
    """
    if values.ndim != 2 or not values.size:
        raise UsageError(f"a map is [h, w], this is {list(values.shape)}; pass one, such as maps['legrad'][0, 0]")
    if not np.isfinite(values).all():
        raise UsageError("the map has NaN or infinite values, which have no color; pass a finite map")
    pixels = np.asarray(to_rgb(apply_orientation(image, read_orientation(image))))
    height, width = pixels.shape[:2]
    whole = {"width": width, "height": height, "scale_x": width, "scale_y": height, "offset_x": 0, "offset_y": 0}
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return Image.fromarray(blend_heatmap(pixels, upsample_to_image(scaled, whole, (1, 1))))


def blend_heatmap(pixels: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blend the colors of a heatmap with the pixels of its image.

    Args:
        pixels: uint8 [H, W, 3].
        heatmap: float [H, W] in [0, 1].

    Returns:
        uint8 [H, W, 3].
    """
    return ((1 - _OPACITY) * pixels + _OPACITY * apply_colormap(heatmap)).astype(np.uint8)


def apply_colormap(heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Color a heatmap: float [H, W] in [0, 1] to uint8 [H, W, 3], blue to red."""
    import matplotlib  # slow to import

    colors: NDArray[np.uint8] = matplotlib.colormaps["turbo"](np.clip(heatmap, 0, 1), bytes=True)[..., :3]
    return colors
