"""From decoded pixels to what a network takes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.run import ModelRecord


class Normalise:
    """Pixels on a network's device, as it takes them.

    Args:
        like: one of its parameters.
    """

    def __init__(self, record: ModelRecord, like: Tensor) -> None:
        like = like.detach()
        self.device = like.device
        self.mean, self.std = (like.new_tensor(values)[:, None, None] for values in (record.mean, record.std))

    def __call__(self, pixels: NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 [B, 3, H, W], or floats in [0, 255] → images [B, 3, H, W]."""
        values = torch.as_tensor(pixels).to(self.device)
        return (values.to(self.mean.dtype) / 255 - self.mean) / self.std
