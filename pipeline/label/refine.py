"""Refinement of maps by the picture they are of."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.policy import Crf, Pamr


class Refiner(Protocol):
    """Maps and pictures to sharper maps."""

    def __call__(self, maps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine maps of one batch.

        Args:
            maps: float32 [B, h, w] on the patch grid, in [0, 1].
            pixels: uint8 [B, 3, H, W], the network's input.

        Returns:
            float32 [B, H, W] in [0, 1].
        """
        ...


def refiner(spec: Pamr | Crf) -> Refiner:
    """The refiner that a policy asks for.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    if isinstance(spec, Crf):
        from pipeline.label.crf import CrfRefiner  # an extra

        return CrfRefiner(spec)
    from pipeline.label.pamr import PamrRefiner  # torch, which other policies do not need

    return PamrRefiner(spec)
