"""Torch dataset of images and pseudo-boxes, in the form in which detectors of torchvision take them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image

from pipeline.label.formats.png_encoding import OBJECT
from pipeline.label.mask import component_boxes
from pipeline.label.mask_dataset import MaskDataset, MaskSample
from schemas.errors import UsageError

BoxTarget = dict[str, Any]
"""``key``; ``boxes``, float32 [n, 4]; ``labels``, int64 [n]: see ``BoxDataset``."""


class BoxDataset(MaskDataset):
    """Images with the boxes of their pseudo-masks, n ≥ 1 of an image: a ``MaskDataset`` with other items.

    An item is an image, uint8 [3, H, W] as ``torchvision.tv_tensors.Image``, and a target, a dict of ``key``;
    ``boxes``, float32 [n, 4] as ``BoundingBoxes`` x0, y0, x1, y1 in pixels of the image, where x1 and y1 are the ends
    of the last pixel, so that x1 − x0 is the width; and ``labels``, int64 [n], class id + 1, since 0 is the background
    of torchvision's detectors. Boxes are those of the exports, one for each 8-connected component of the mask, the
    largest component first. Ignored pixels do not count.

    Args:
        images: see ``MaskDataset``.
        masks: likewise.
        transform: applied to image and target, which the transforms of ``torchvision.transforms.v2`` change together;
            its result is the item.
        boxes: ``all``, or only that of the ``largest`` component.
        shuffle: see ``MaskDataset``.
        seed: likewise.

    Raises:
        UsageError: see ``MaskDataset``. During iteration: a mask is of a text, which is no class.
        CorruptShardError: a shard is damaged; raised during iteration.
    """

    def __init__(
        self,
        images: str | Path | Sequence[str | Path],
        masks: str | Path | Sequence[str | Path],
        transform: Callable[[Image, BoxTarget], Any] | None = None,
        boxes: Literal["all", "largest"] = "all",
        shuffle: int = 0,
        seed: int = 0,
    ) -> None:
        if boxes not in ("all", "largest"):
            raise UsageError(f"boxes: {boxes!r} is neither 'all' nor 'largest'; choose one of them")
        super().__init__(images, masks, partial(_make_item, transform, boxes == "largest"), shuffle, seed)


def _make_item(transform: Callable[[Image, BoxTarget], Any] | None, only_largest: bool, sample: MaskSample) -> Any:
    if sample.label < 0:
        raise UsageError(f"{sample.key}: its mask is of a text, so its boxes have no class; use MaskDataset instead")
    boxes = _boxes(sample.mask)[: 1 if only_largest else None]
    target = {
        "key": sample.key,
        "boxes": BoundingBoxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=tuple(sample.mask.shape)),
        "labels": torch.full((len(boxes),), sample.label + 1),
    }
    image = Image(sample.image)
    return (image, target) if transform is None else transform(image, target)


def _boxes(mask: Tensor) -> Tensor:
    """Return the box of each component of uint8 [H, W], float32 [n, 4], both ends in pixel edges."""
    inclusive = torch.tensor(component_boxes(mask.numpy() == OBJECT), dtype=torch.float32)
    return inclusive + torch.tensor([0.0, 0.0, 1.0, 1.0])
