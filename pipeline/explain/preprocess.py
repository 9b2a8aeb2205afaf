"""Conversion of images to the input of a model, and overlays of maps on images."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from pipeline.explain.description import describe
from pipeline.explain.foreign_models import as_timm
from pipeline.image import PreprocessConfig, apply_orientation, overlay_heatmap, read_orientation, resize_crop, to_rgb
from schemas.errors import UsageError


class Normalize:
    """Normalization of pixels on the device of a model: (x / 255 − mean) / std.

    Args:
        mean: of each channel, in [0, 1].
        std: of each channel.
        like: a parameter of the model; gives dtype and device.

    Attributes:
        mean: [3, 1, 1] on that device.
        std: [3, 1, 1] on that device.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], like: Tensor) -> None:
        like = like.detach()
        self.device = like.device
        self.mean, self.std = (like.new_tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, pixels: NDArray[np.uint8] | Tensor) -> Tensor:
        """Normalize pixels [B, 3, H, W], uint8 or floats in [0, 255]."""
        values = torch.as_tensor(pixels).to(self.device)
        return (values.to(self.mean.dtype) / 255 - self.mean) / self.std


def prepare(model: nn.Module, images: Image.Image | Iterable[Image.Image]) -> Tensor:
    """Convert whole images to the input of ``explain``: with size, interpolation, mean and std of the model.

    The result is bit-identical to that of a run with the geometry ``squash`` on the same images in a shard.

    Args:
        model: one that ``describe`` supports.
        images: one or several, of any mode and size; their EXIF orientation is applied.

    Returns:
        [B, 3, H, W] in the precision of the model and on its device.

    Raises:
        UsageError: there are none, or the model does not take RGB, or does not say how images are normalized.
        UnsupportedModel: see ``describe``.
    """
    several = [images] if isinstance(images, Image.Image) else list(images)
    if not several:
        raise UsageError("there are no images to prepare; give at least one")
    model = as_timm(model)
    if "mean" in (known := getattr(model, "pretrained_cfg", None) or {}) and known["mean"] is None:
        raise UsageError("the model does not say how its images are normalized; prepare them by its own library")
    height, width = describe(model).input_size
    config, weights = resolve_model_data_config(model), next(model.parameters())
    if len(config["mean"]) != 3:
        raise UsageError(f"the model takes {len(config['mean'])} channels; only RGB is supported")
    frame = PreprocessConfig(width, height, config["interpolation"], "squash", 1.0, "center")
    rgb_images = (to_rgb(apply_orientation(image, read_orientation(image))) for image in several)
    pixels = np.stack(
        [resize_crop(image, frame, frame.transform_for(image.width, image.height)) for image in rgb_images]
    )
    return Normalize(config["mean"], config["std"], weights)(pixels)


def overlay(image: Image.Image, values: Tensor | NDArray[np.floating]) -> Image.Image:
    """Overlay a map on the whole image, from blue at its minimum to red at its maximum. Needs matplotlib.

    Args:
        image: any mode and size; its EXIF orientation is applied.
        values: float [h, w]: one of the maps that ``explain`` gives, or ``Atlas.map``.

    Returns:
        RGB, of the size of the image.

    Raises:
        UsageError: that is not one map, or it is not finite.
    """
    return overlay_heatmap(image, torch.as_tensor(values).detach().float().cpu().numpy())
