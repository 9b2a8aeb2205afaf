"""Pictures as PIL has them: into ``explain``, and its maps back over them."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from pipeline.explain.anatomy import describe
from pipeline.image import PreprocessConfig, apply_orientation, overlay_heatmap, read_orientation, resize_crop, to_rgb
from schemas.errors import UsageError


class Normalize:
    """Pixels on a network's device, as it takes them.

    Args:
        mean, std: of each channel, in [0, 1].
        like: a parameter of the network.

    Attributes:
        mean, std: [3, 1, 1] on its device.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], like: Tensor) -> None:
        like = like.detach()
        self.device = like.device
        self.mean, self.std = (like.new_tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, pixels: NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 [B, 3, H, W], or floats in [0, 255] → images [B, 3, H, W]."""
        values = torch.as_tensor(pixels).to(self.device)
        return (values.to(self.mean.dtype) / 255 - self.mean) / self.std


def prepare(model: nn.Module, images: Image.Image | Iterable[Image.Image]) -> Tensor:
    """Pictures as ``explain`` takes them: whole, in the size, interpolation, mean and deviation of the model.

    To the bit what a run with the geometry ``squash`` makes of the same pictures in a shard.

    Args:
        model: of timm, as ``describe`` knows it.
        images: one or several, of any mode and size; their EXIF orientation is applied.

    Returns:
        [B, 3, H, W] in the precision of the model and on its device.

    Raises:
        UsageError: there are none, or the model does not take RGB.
        UnsupportedModel: see ``describe``.
    """
    several = [images] if isinstance(images, Image.Image) else list(images)
    if not several:
        raise UsageError("there are no images to prepare")
    height, width = describe(model).input_size
    config, weights = resolve_model_data_config(model), next(model.parameters())
    if len(config["mean"]) != 3:
        raise UsageError(f"the model takes {len(config['mean'])} channels; only RGB is known here")
    frame = PreprocessConfig(width, height, config["interpolation"], "squash", 1.0, "center")
    upright_ones = (to_rgb(apply_orientation(image, read_orientation(image))) for image in several)
    pixels = np.stack(
        [resize_crop(image, frame, frame.transform_for(image.width, image.height)) for image in upright_ones]
    )
    return Normalize(config["mean"], config["std"], weights)(pixels)


def overlay(image: Image.Image, values: Tensor | NDArray[np.floating]) -> Image.Image:
    """A map over the whole picture, from blue at its minimum to red at its maximum. Needs matplotlib.

    Args:
        image: any mode and size; its EXIF orientation is applied.
        values: float [h, w]: one of the maps that ``explain`` gives, or ``Atlas.map``.

    Returns:
        RGB, as large as the image.

    Raises:
        UsageError: that is not one map, or it is not finite.
    """
    return overlay_heatmap(image, torch.as_tensor(values).detach().float().cpu().numpy())
