"""From decoded pixels to what a network takes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Normalise:
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
