"""Refinement of heatmaps by the image."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.policy import Crf, Pamr


class Refiner(Protocol):
    """A function from heatmaps and images to sharper heatmaps."""

    def __call__(self, heatmaps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine the heatmaps of one batch.

        Args:
            heatmaps: float32 [B, h, w] on the patch grid, in [0, 1].
            pixels: uint8 [B, 3, H, W], the input of the network.

        Returns:
            float32 [B, H, W] in [0, 1].
        """


def make_refiner(spec: Pamr | Crf) -> Refiner:
    """Return the refiner of a policy.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    if isinstance(spec, Crf):
        from pipeline.label.crf import CrfRefiner  # an extra

        return CrfRefiner(spec)
    from pipeline.label.pamr import PamrRefiner  # torch, which other policies do not need

    return PamrRefiner(spec)
