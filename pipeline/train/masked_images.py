"""Images with masks, and crops of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from pipeline.explain.anatomy import Anatomy
from pipeline.read import DecoderPool, PreprocessConfig
from pipeline.train.image_stream import ImageStream, TrainingBatch
from pipeline.train.mask_sources import MaskSource

UNKNOWN, MASKED, BOXED = 0, 1, 2
"""Kinds of masks: none, a mask, filled boxes."""
_SAMPLES = 8
"""Sampling points along each side of a patch, for the fraction of it that an object covers."""


@dataclass(frozen=True)
class MaskedImages:
    """Images of one size with their masks.

    Attributes:
        pixels: uint8 [B, 3, H, W].
        labels: int64 [B], −1 where there is none.
        planes: uint8 [B, 2, H, W], fractions of each pixel that are object and ignored, 255 means 1.
        mask_kinds: int64 [B], ``UNKNOWN``, ``MASKED`` or ``BOXED``.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    planes: NDArray[np.uint8]
    mask_kinds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_batch(cls, batch: TrainingBatch, masks: MaskSource | None, frame: PreprocessConfig) -> Self:
        """Add masks to a batch.

        Args:
            batch: images.
            masks: source of masks; None means no masks.
            frame: preprocessing of the images.

        Raises:
            UsageError: a mask and its image differ in size.
        """
        planes = np.zeros((len(batch.samples), 2, *batch.pixels.shape[2:]), np.uint8)
        kinds = np.full(len(batch.samples), UNKNOWN)
        for row, sample in enumerate(batch.samples):
            target = masks.find(batch.shard, sample) if masks else None
            if target is not None:
                planes[row], kinds[row] = target.to_planes(sample, frame), BOXED if target.boxed else MASKED
        labels = np.array([-1 if sample.label is None else sample.label for sample in batch.samples])
        return cls(batch.pixels, labels, planes, kinds)

    def __add__(self, other: "MaskedImages") -> "MaskedImages":
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return MaskedImages(*(np.concatenate(pair) for pair in pairs))


class MaskedImagePool:
    """The few images that have masks, in memory. Training steps sample from them.

    Args:
        batches: the images.
    """

    def __init__(self, batches: Sequence[MaskedImages]) -> None:
        self._batches = batches
        self._places = [(index, row) for index, batch in enumerate(batches) for row in range(len(batch))]

    @classmethod
    def load(cls, stream: ImageStream, masks: MaskSource, decoders: DecoderPool) -> Self:
        """Load all images of a rank's shards that have masks.

        Args:
            stream: images of the rank.
            masks: source of masks.
            decoders: image decoders.

        Raises:
            UsageError: a mask and its image differ in size.
        """
        batches = stream.iter_epoch(decoders, predicate=lambda sample: sample.key in masks)
        return cls([MaskedImages.from_batch(batch, masks, stream.frame) for batch in batches])

    def __len__(self) -> int:
        return len(self._places)

    def sample(self, count: int, step: int, seed: Sequence[int]) -> MaskedImages:
        """Return the images of a training step. The pool must not be empty.

        Each image comes once in an order that depends on the seed, then in another order.

        Args:
            count: number of images.
            step: number of the training step.
            seed: seed of the order.
        """
        numbers = range(step * count, (step + 1) * count)
        orders = {epoch: self._order(epoch, seed) for epoch in {number // len(self) for number in numbers}}
        places = [self._places[orders[number // len(self)][number % len(self)]] for number in numbers]
        names = MaskedImages.__dataclass_fields__
        return MaskedImages(*(np.stack([getattr(self._batches[i], name)[row] for i, row in places]) for name in names))

    def _order(self, epoch: int, seed: Sequence[int]) -> NDArray[np.int64]:
        return np.random.default_rng([94, epoch, *seed]).permutation(len(self))


@dataclass(frozen=True)
class CropWindows:
    """Crop of each image of a batch, with optional mirroring.

    Attributes:
        windows: float64 [B, 4], x0, y0, x1, y1 as fractions of the image.
        mirrored: bool [B].
    """

    windows: NDArray[np.float64]
    mirrored: NDArray[np.bool_]

    @classmethod
    def full(cls, count: int) -> Self:
        """Return windows that cover the whole images."""
        return cls(np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)), np.zeros(count, bool))

    @classmethod
    def sample(cls, count: int, min_area: float, rng: np.random.Generator) -> Self:
        """Sample random windows; half of them are mirrored.

        Areas are uniform in [min_area, 1], aspect ratios in [3:4, 4:3] as far as they fit.

        Args:
            count: number of windows.
            min_area: smallest area, as a fraction of the image.
            rng: source of randomness.
        """
        area = rng.uniform(min_area, 1, count)
        max_log_ratio = np.log(np.minimum(4 / 3, 1 / area))
        ratio = np.exp(rng.uniform(-1, 1, count) * max_log_ratio)
        sides = np.minimum(1, np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 1))  # 1 but for rounding
        low = rng.random((count, 2)) * (1 - sides)
        return cls(np.concatenate([low, low + sides], 1), rng.random(count) < 0.5)

    def crop(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop and resize images.

        Args:
            pixels: float [B, C, H, W].
            size: height and width of the result.

        Returns:
            Crops, [B, C, *size].
        """
        return self._align(pixels, size, 2)

    def patch_coverage(self, planes: Tensor, anatomy: Anatomy) -> tuple[Tensor, Tensor]:
        """Compute how much of each patch of the crops an object covers.

        Args:
            planes: float [B, 2, H, W], as in ``MaskedImages``, 0 … 255.
            anatomy: structure of the model.

        Returns:
            Object as a fraction of what is not ignored, and the ignored fraction: [B, N] each, in [0, 1].
        """
        (rows, columns), (height, width) = anatomy.grid, anatomy.patch
        grid_extent = rows * height / anatomy.input_size[0], columns * width / anatomy.input_size[1]
        shares = self._align(planes / 255, anatomy.grid, _SAMPLES, grid_extent).flatten(2).clamp(0, 1)
        return (shares[:, 0] / (1 - shares[:, 1]).clamp(min=1e-6)).clamp(0, 1), shares[:, 1]

    def _align(
        self, planes: Tensor, size: tuple[int, int], samples: int, extent: tuple[float, float] = (1.0, 1.0)
    ) -> Tensor:
        """Resample the upper left ``extent`` of each window, by means over bilinear samples."""
        height, width = planes.shape[2:]
        windows = torch.from_numpy(self.windows).to(planes) * planes.new_tensor([width, height, width, height])
        mirrored = torch.from_numpy(self.mirrored).to(planes.device)
        x0, y0, x1, y1 = windows.unbind(1)
        across, down = (x1 - x0) * extent[1], (y1 - y0) * extent[0]
        left, right = torch.where(mirrored, x1 - across, x0), torch.where(mirrored, x1, x0 + across)
        boxes = torch.stack([torch.arange(len(windows)).to(windows), left, y0, right, y0 + down], 1)
        crops = roi_align(planes, boxes, size, sampling_ratio=samples, aligned=True)
        return torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
