"""Methods that show the network parts of an image, very many times."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.trace import Trace


@dataclass(frozen=True)
class PerturbationMethod(Method):
    """Base of these: one image after the other, all classes at once."""

    multi_target = True
    default = False

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        maps = trace.images.new_empty(*targets.shape, *trace.anatomy.grid)
        for row, classes in enumerate(targets):
            maps[row] = self.explain_image(trace, row, classes)
        return maps

    @abstractmethod
    def explain_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        """Maps of one image, one for each of its classes: [classes, h, w]."""


def interpolation_matrix(length: int, size: int) -> Tensor:
    """Linear interpolation as a matrix: float64 [size, length], rows sum to 1.

    Pixels are cells of one width, not points: beyond the middle of the first and the last they are constant.
    """
    unit = torch.eye(length, dtype=torch.float64)
    return F.interpolate(unit[None], size=size, mode="linear", align_corners=False)[0].T
