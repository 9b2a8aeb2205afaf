"""Pictures with what is known of them, and the same cut of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from pipeline.explain.anatomy import Anatomy
from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig
from pipeline.train.image_stream import Stream
from pipeline.train.mask_sources import Masks

UNKNOWN, MASKED, BOXED = 0, 1, 2
"""What is known of a picture: nothing, a mask, filled boxes."""
_SAMPLES = 8
"""Samples along each side of a patch, for the share of it that an object covers."""


@dataclass(frozen=True)
class Labelled:
    """Pictures of one size.

    Attributes:
        pixels: uint8 [B, 3, H, W].
        labels: int64 [B].
        planes: uint8 [B, 2, H, W], object and ignored area of each pixel, 255 is all of it.
        known: int64 [B], ``UNKNOWN``, ``MASKED`` or ``BOXED``.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    planes: NDArray[np.uint8]
    known: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(
        cls,
        shard: str,
        samples: Sequence[DecodedSample],
        pixels: NDArray[np.uint8],
        masks: Masks | None,
        frame: PreprocessConfig,
    ) -> Self:
        """Samples of a shard with what masks say of them.

        Raises:
            UsageError: a mask is of another size than its picture.
        """
        planes = np.zeros((len(samples), 2, *pixels.shape[2:]), np.uint8)
        known = np.full(len(samples), UNKNOWN)
        for place, sample in enumerate(samples):
            found = masks.of(shard, sample) if masks else None
            if found is not None:
                planes[place], known[place] = found.planes(sample, frame), BOXED if found.boxed else MASKED
        labels = np.array([-1 if sample.label is None else sample.label for sample in samples])
        return cls(pixels, labels, planes, known)

    def __add__(self, other: "Labelled") -> "Labelled":
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return Labelled(*(np.concatenate(pair) for pair in pairs))


class Pool:
    """The few pictures that have masks, in memory, from which steps draw.

    Args:
        parts: of them, as they were read.
    """

    def __init__(self, parts: Sequence[Labelled]) -> None:
        self._parts = parts
        self._places = [(part, place) for part in range(len(parts)) for place in range(len(parts[part]))]

    @classmethod
    def gather(cls, stream: Stream, masks: Masks, decoder: DecoderPool) -> Self:
        """All pictures of a rank's shards that masks are known of.

        Raises:
            UsageError: a mask is of another size than its picture.
        """
        return cls(
            [
                Labelled.of(images.shard, images.samples, images.pixels, masks, stream.frame)
                for images in stream.epoch(decoder, only=lambda sample: sample.key in masks)
            ]
        )

    def __len__(self) -> int:
        return len(self._places)

    def draw(self, count: int, step: int, seed: Sequence[int]) -> Labelled:
        """The pictures of a step: each once in an order that depends on the seed, then in another.

        There must be some.
        """
        numbers = range(step * count, (step + 1) * count)
        orders = {epoch: self._order(epoch, seed) for epoch in {number // len(self) for number in numbers}}
        chosen = [self._places[orders[number // len(self)][number % len(self)]] for number in numbers]
        names = Labelled.__dataclass_fields__
        return Labelled(*(np.stack([getattr(self._parts[part], name)[i] for part, i in chosen]) for name in names))

    def _order(self, epoch: int, seed: Sequence[int]) -> NDArray[np.int64]:
        return np.random.default_rng([94, epoch, *seed]).permutation(len(self))


@dataclass(frozen=True)
class Cut:
    """A window of each picture, and whether it is mirrored.

    Attributes:
        windows: float [B, 4], x0, y0, x1, y1 as fractions of the picture.
        mirrored: bool [B].
    """

    windows: NDArray[np.float64]
    mirrored: NDArray[np.bool_]

    @classmethod
    def whole(cls, count: int) -> Self:
        """All of each picture."""
        return cls(np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)), np.zeros(count, bool))

    @classmethod
    def drawn(cls, count: int, least: float, source: np.random.Generator) -> Self:
        """Windows of ``least`` to 1 of the area, of sides from 3:4 to 4:3 as far as they fit; every other mirrored."""
        area = source.uniform(least, 1, count)
        most = np.log(np.minimum(4 / 3, 1 / area))
        ratio = np.exp(source.uniform(-1, 1, count) * most)
        sides = np.minimum(1, np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 1))  # 1 but for rounding
        low = source.random((count, 2)) * (1 - sides)
        return cls(np.concatenate([low, low + sides], 1), source.random(count) < 0.5)

    def images(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """The windows of pictures [B, C, H, W], brought to a size: [B, C, *size]."""
        return self._align(pixels, size, 2)

    def coverage(self, planes: Tensor, anatomy: Anatomy) -> tuple[Tensor, Tensor]:
        """How much of each patch an object covers.

        Args:
            planes: [B, 2, H, W], as in ``Labelled``, 0 … 255.

        Returns:
            Share of what is known that is object, and share that is not known: [B, N] each, in [0, 1].
        """
        (rows, columns), (height, width) = anatomy.grid, anatomy.patch
        seen = rows * height / anatomy.input_size[0], columns * width / anatomy.input_size[1]
        shares = self._align(planes / 255, anatomy.grid, _SAMPLES, seen).flatten(2).clamp(0, 1)
        return (shares[:, 0] / (1 - shares[:, 1]).clamp(min=1e-6)).clamp(0, 1), shares[:, 1]

    def _align(
        self, planes: Tensor, size: tuple[int, int], samples: int, seen: tuple[float, float] = (1.0, 1.0)
    ) -> Tensor:
        """Windows of planes, of each the upper left part that is seen, by means over bilinear samples."""
        height, width = planes.shape[2:]
        windows = torch.from_numpy(self.windows).to(planes) * planes.new_tensor([width, height, width, height])
        mirrored = torch.from_numpy(self.mirrored).to(planes.device)
        x0, y0, x1, y1 = windows.unbind(1)
        across, down = (x1 - x0) * seen[1], (y1 - y0) * seen[0]
        left, right = torch.where(mirrored, x1 - across, x0), torch.where(mirrored, x1, x0 + across)
        boxes = torch.stack([torch.arange(len(windows)).to(windows), left, y0, right, y0 + down], 1)
        cut = roi_align(planes, boxes, size, sampling_ratio=samples, aligned=True)
        return torch.where(mirrored[:, None, None, None], cut.flip(3), cut)
