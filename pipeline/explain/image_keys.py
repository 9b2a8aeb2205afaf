"""Keys of images that were given none."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ImageKeys(Sequence[str]):
    """The hash of each image, computed where a method asks for it; most methods use no random numbers.

    Args:
        images: [B, 3, H, W].
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images.detach()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        images = self._images[index]
        if isinstance(index, slice):
            return ImageKeys(images)
        return hashlib.sha256(images.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
