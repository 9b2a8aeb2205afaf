"""Pixel-adaptive mask refinement: heatmaps are averaged over pixels of similar color."""

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
"""Fraction of the local standard deviation that differences are divided by, as in the authors' code."""
_CPU_BATCH_SIZE = 8
"""Small enough for the weights to stay in the cache of a CPU."""
_HALF_OF_NEIGHBORS = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Rows and columns to four of the eight neighbors; the others are opposite."""


class PamrRefiner:
    """Araslanov and Roth, "Single-stage semantic segmentation from image labels", CVPR 2020, section 3.3.

    In each iteration, a pixel gets the weighted mean of its eight neighbors at every dilation. The weights are the
    softmax, over all of them, of -|difference| / (0.1 · deviation), averaged over the colors; the deviation is that of
    the 3 × 3 pixels at all dilations together. Beyond a border, the pixels at the border are repeated.

    It runs on a GPU if there is one.
    """

    def __init__(self, spec: Pamr) -> None:
        self.iterations, self.dilations = spec.iterations, spec.dilations
        self._offsets = [
            (dilation * down, dilation * right) for dilation in spec.dilations for down, right in _HALF_OF_NEIGHBORS
        ]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if parent_process() is not None:  # the other cores have processes of their own
            torch.set_num_threads(1)

    @torch.inference_mode()
    def __call__(self, heatmaps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine heatmaps, see ``Refiner``."""
        size = len(heatmaps) if self.device.type == "cuda" else _CPU_BATCH_SIZE
        batches = zip(torch.from_numpy(heatmaps).split(size), torch.from_numpy(pixels).split(size), strict=True)
        return np.concatenate([self._refine(maps.to(self.device), images.to(self.device)) for maps, images in batches])

    def _refine(self, heatmaps: Tensor, pixels: Tensor) -> NDArray[np.float32]:
        resized = F.interpolate(heatmaps[:, None], pixels.shape[-2:], mode="bilinear", align_corners=False)
        # Images go last, so that shifted rows are long runs of memory: [color, H, W, B].
        values = resized.permute(1, 2, 3, 0).contiguous()
        weights = self._weights(pixels.permute(1, 2, 3, 0).float().contiguous())
        norm = torch.zeros_like(values)
        for _, weight in weights:
            norm += weight
        norm.reciprocal_()
        for _ in range(self.iterations):
            padded, values = self._pad(values), torch.zeros_like(values)
            for offset, weight in weights:
                values.addcmul_(weight, self._crop(padded, offset, values.shape[1:3]))
            values *= norm
        return values[0].permute(2, 0, 1).cpu().numpy()

    def _weights(self, pixels: Tensor) -> list[tuple[Offset, Tensor]]:
        """Return offsets, and the weights [H, W, B] of the pixels there, not yet divided by their sum.

        No shift against underflow is needed: no pixel is farther than some 3.2 deviations from all its neighbors.
        """
        height, width = pixels.shape[1:3]
        rates = -1 / (_SHARPNESS * len(pixels) * self._deviation(pixels)).clamp_min_(1e-8)
        padded, weights = self._pad(pixels), []
        for down, right in self._offsets:
            # One difference serves an offset and its opposite.
            left, over = max(0, right), max(0, -right)
            size = (height + down, width + left + over)
            distance = (self._crop(padded, (0, -over), size) - self._crop(padded, (-down, -left), size)).abs_()
            for offset, start in (((down, right), (down, left)), ((-down, -right), (0, over))):
                differences = distance[:, start[0] : start[0] + height, start[1] : start[1] + width]
                weight = differences[0] * rates[0]
                for color in range(1, len(rates)):
                    weight.addcmul_(differences[color], rates[color])
                weights.append((offset, weight.exp_()))
        return weights

    def _deviation(self, pixels: Tensor) -> Tensor:
        """Return the standard deviation of the 3 × 3 pixels at all dilations: [color, H, W, B]."""
        # Sums of whole numbers are exact in float32; their difference needs float64.
        sums, squares = self._sum(pixels).double(), self._sum(pixels.square()).double()
        count = 9 * len(self.dilations)
        return ((count * squares - sums.square()) / (count * (count - 1))).sqrt_().float()

    def _sum(self, values: Tensor) -> Tensor:
        padded, total, size = self._pad(values), torch.zeros_like(values), values.shape[1:3]
        for dilation in self.dilations:
            for right in (-dilation, 0, dilation):
                for down in (-dilation, 0, dilation):
                    total += self._crop(padded, (down, right), size)
        return total

    def _pad(self, values: Tensor) -> Tensor:
        """Repeat the pixels at the borders, as far as the largest dilation."""
        for axis in (1, 2):
            length, width = values.shape[axis], max(self.dilations)
            indices = torch.arange(-width, length + width, device=values.device).clamp_(0, length - 1)
            values = values.index_select(axis, indices)
        return values

    def _crop(self, padded: Tensor, offset: Offset, size: Sequence[int]) -> Tensor:
        """Return a part of a padded tensor; the offset is counted without the padding."""
        top, left = (max(self.dilations) + steps for steps in offset)
        return padded[:, top : top + size[0], left : left + size[1]]
