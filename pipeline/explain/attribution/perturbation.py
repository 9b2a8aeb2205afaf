"""Base of perturbation methods, which run the network on many masked copies of an image."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.method import Method, constant_probability_fault
from pipeline.explain.trace import Trace


@dataclass(frozen=True)
class PerturbationMethod(Method):
    """Base of perturbation methods: probabilities of masked copies, one image at a time, all classes at once."""

    multi_target = True
    default = False

    def unsupported(self, anatomy: Anatomy) -> str | None:
        return constant_probability_fault(anatomy)

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        maps = trace.images.new_empty(*targets.shape, *trace.anatomy.grid)
        for row, classes in enumerate(targets):
            maps[row] = self.explain_image(trace, row, classes)
        return maps

    @abstractmethod
    def explain_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        """Compute the maps of one image.

        Args:
            trace: a recorded forward.
            row: index of the image in the batch.
            classes: int64 [K].

        Returns:
            [K, h, w].
        """


def interpolation_matrix(length: int, size: int) -> Tensor:
    """Compute linear interpolation as a matrix.

    Pixels are cells of equal width, not points: outside the centers of the first and last cell values are constant.

    Args:
        length: number of cells.
        size: number of pixels.

    Returns:
        float64 [size, length], rows sum to 1.
    """
    unit = torch.eye(length, dtype=torch.float64)
    return F.interpolate(unit[None], size=size, mode="linear", align_corners=False)[0].T
