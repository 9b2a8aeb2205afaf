"""Pixel-adaptive mask refinement: a map is averaged along what looks alike in the picture."""

from collections.abc import Sequence
from multiprocessing import parent_process

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from schemas.policy import Pamr

Offset = tuple[int, int]
"""Rows down, columns to the right."""

_SHARPNESS = 0.1
"""Part of the local deviation that differences are measured in, as the authors have it."""
_TOGETHER = 8
"""Pictures at a time on a CPU, so that their weights stay in its cache."""
_HALF = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Rows and columns to half of the eight neighbours; the others are opposite."""


class PamrRefiner:
    """Araslanov and Roth, "Single-stage semantic segmentation from image labels", CVPR 2020, section 3.3.

    In each iteration, a pixel gets the weighted mean of its eight neighbours at every dilation. The weights are the
    softmax, over all of them, of -|difference| / (0.1 · deviation), averaged over the colours; the deviation is that of
    the 3 × 3 pixels at all dilations together. Beyond a border stands what is next to it.

    It works on a GPU where there is one.
    """

    def __init__(self, spec: Pamr) -> None:
        self.iterations, self.dilations = spec.iterations, spec.dilations
        self._ahead = [(far * down, far * right) for far in spec.dilations for down, right in _HALF]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if parent_process() is not None:  # the other cores have processes of their own
            torch.set_num_threads(1)

    @torch.inference_mode()
    def __call__(self, maps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine maps, see ``Refiner``."""
        together = len(maps) if self.device.type == "cuda" else _TOGETHER
        parts = zip(torch.from_numpy(maps).split(together), torch.from_numpy(pixels).split(together), strict=True)
        return np.concatenate([self._refine(some.to(self.device), of.to(self.device)) for some, of in parts])

    def _refine(self, maps: Tensor, pixels: Tensor) -> NDArray[np.float32]:
        large = F.interpolate(maps[:, None], pixels.shape[-2:], mode="bilinear", align_corners=False)
        # Pictures go last, so that shifted rows are long runs of memory: [colour, H, W, B].
        values = large.permute(1, 2, 3, 0).contiguous()
        weights = self._weights(pixels.permute(1, 2, 3, 0).float().contiguous())
        share = torch.zeros_like(values)
        for _, weight in weights:
            share += weight
        share.reciprocal_()
        for _ in range(self.iterations):
            padded, values = self._pad(values), torch.zeros_like(values)
            for offset, weight in weights:
                values.addcmul_(weight, self._from(padded, offset, values.shape[1:3]))
            values *= share
        return values[0].permute(2, 0, 1).cpu().numpy()

    def _weights(self, pixels: Tensor) -> list[tuple[Offset, Tensor]]:
        """Offsets, and the weight [H, W, B] of what lies there, not yet divided by their sum.

        No shift against underflow is needed: no pixel is farther than some 3.2 deviations from all its neighbours.
        """
        height, width = pixels.shape[1:3]
        rates = -1 / (_SHARPNESS * len(pixels) * self._deviation(pixels)).clamp_min_(1e-8)
        padded, weights = self._pad(pixels), []
        for down, right in self._ahead:
            # What is ahead of one pixel is behind another: one difference serves an offset and its opposite.
            left, over = max(0, right), max(0, -right)
            size = (height + down, width + left + over)
            distance = (self._from(padded, (0, -over), size) - self._from(padded, (-down, -left), size)).abs_()
            for offset, start in (((down, right), (down, left)), ((-down, -right), (0, over))):
                near = distance[:, start[0] : start[0] + height, start[1] : start[1] + width]
                weight = near[0] * rates[0]
                for colour in range(1, len(rates)):
                    weight.addcmul_(near[colour], rates[colour])
                weights.append((offset, weight.exp_()))
        return weights

    def _deviation(self, pixels: Tensor) -> Tensor:
        """Standard deviation of the 3 × 3 pixels at all dilations: [colour, H, W, B]."""
        # The sums are of whole numbers, so exact; their difference would not be.
        sums, squares = self._sum(pixels).double(), self._sum(pixels.square()).double()
        count = 9 * len(self.dilations)
        return ((count * squares - sums.square()) / (count * (count - 1))).sqrt_().float()

    def _sum(self, values: Tensor) -> Tensor:
        padded, total, size = self._pad(values), torch.zeros_like(values), values.shape[1:3]
        for dilation in self.dilations:
            for right in (-dilation, 0, dilation):
                for down in (-dilation, 0, dilation):
                    total += self._from(padded, (down, right), size)
        return total

    def _pad(self, values: Tensor) -> Tensor:
        """What is at a border goes on beyond it, as far as the largest dilation."""
        for axis in (1, 2):
            length, reach = values.shape[axis], max(self.dilations)
            places = torch.arange(-reach, length + reach, device=values.device).clamp_(0, length - 1)
            values = values.index_select(axis, places)
        return values

    def _from(self, padded: Tensor, offset: Offset, size: Sequence[int]) -> Tensor:
        """A part of what is padded, as if counted without the padding."""
        top, left = (max(self.dilations) + each for each in offset)
        return padded[:, top : top + size[0], left : left + size[1]]
