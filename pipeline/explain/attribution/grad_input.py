"""Gradient × input."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, Trace


@methods.register
@dataclass(frozen=True)
class GradInput(Method):
    """Image times gradient of the class logit, summed over each patch.

    E = Σ over channels and pixels of a patch of x ⊙ ∂y_c/∂x; signed. x is the normalized image, so the mean color
    of the dataset contributes nothing. Cost: the shared backward (≈1 forward).
    """

    base_name = "grad_input"
    paper = "Shrikumar et al., Learning Important Features, ICML 2017"
    cost = "≈1, shared"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.IMAGE_GRADIENTS

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradient = trace.gradients(targets).images
        assert gradient is not None
        return trace.patch_sums(trace.images * gradient)
