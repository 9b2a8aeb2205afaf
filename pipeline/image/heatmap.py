"""A map over the picture that it is of."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.image.resize import orientation_of, rgb, upright
from pipeline.image.upsample import enlarge
from schemas.errors import UsageError

_SHARE = 0.6
"""Of the colours; the rest is the picture."""


def overlay(image: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """A map over the whole picture, from blue at its minimum to red at its maximum.

    Args:
        image: any mode and size; its EXIF orientation is applied.
        values: float [h, w] on a grid that spans the picture. One that is constant is blue all over.

    Returns:
        RGB, as large as the picture.

    Raises:
        UsageError: that is not one map, or it is not finite.
    """
    if values.ndim != 2 or not values.size:
        raise UsageError(f"a map is [h, w], this is {list(values.shape)}; take one, such as maps['legrad'][0, 0]")
    if not np.isfinite(values).all():
        raise UsageError("the map has values that are NaN or infinite, which have no colour")
    picture = np.asarray(rgb(upright(image, orientation_of(image))))
    height, width = picture.shape[:2]
    whole = {"width": width, "height": height, "scale_x": width, "scale_y": height, "offset_x": 0, "offset_y": 0}
    low, high = values.min(), values.max()
    shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return Image.fromarray(blend(picture, enlarge(shares, whole, (1, 1))))


def blend(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours of a map over the pixels that it lies on.

    Args:
        picture: uint8 [H, W, 3].
        heat: float [H, W] in [0, 1].

    Returns:
        uint8 [H, W, 3].
    """
    return ((1 - _SHARE) * picture + _SHARE * colours(heat)).astype(np.uint8)


def colours(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map in colours: float [H, W] in [0, 1] to uint8 [H, W, 3], blue to red."""
    import matplotlib  # whoever draws nothing does not wait for it

    painted: NDArray[np.uint8] = matplotlib.colormaps["turbo"](np.clip(heat, 0, 1), bytes=True)[..., :3]
    return painted
