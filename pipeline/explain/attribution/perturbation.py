"""Base of perturbation methods, which run the network on many masked copies of an image."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.attribution.gradient_method import TargetMethod
from pipeline.explain.method import constant_probability_fault
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.target_score import Target, compared_classes, target_values


@dataclass(frozen=True, kw_only=True)
class PerturbationMethod(TargetMethod):
    """Base of perturbation methods: probabilities of masked copies, one image at a time, all classes at once.

    Options:
        target: the number of each copy that takes the place of the probability, see [targets](#targets).
    """

    multi_target = True
    default = False

    target: Target = "softmax"

    def unsupported(self, anatomy: Any) -> str | None:
        return constant_probability_fault(anatomy) if self.target == "softmax" else super().unsupported(anatomy)

    def values(self, trace: NetworkTrace, row: int, logits: Tensor, classes: Tensor) -> Tensor:
        """Compute the number that a map explains for copies of an image: [M, K].

        Args:
            trace: a recorded forward.
            row: index of the image in the batch; the classes to compare with are its own.
            logits: [M, C].
            classes: int64 [K].
        """
        compared = compared_classes(trace.logits[row], classes, self.target)
        compared = None if compared is None else compared.expand(len(logits), -1, -1)
        return target_values(trace.model, logits, classes.expand(len(logits), -1), self.target, compared)

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        maps = trace.images.new_empty(*targets.shape, *self.grid(trace.anatomy))
        for row, classes in enumerate(targets):
            maps[row] = self.explain_image(trace, row, classes)
        return maps

    @abstractmethod
    def explain_image(self, trace: Any, row: int, classes: Tensor) -> Tensor:
        """Compute the maps of one image.

        Args:
            trace: a recorded forward, see ``Method.compute``.
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
