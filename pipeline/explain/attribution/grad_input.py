"""Gradient × input."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.gradient_method import GradientMethod, embedding_relevance
from pipeline.explain.capture import Capture
from pipeline.explain.network import Network, Requirement
from pipeline.explain.registry import methods


@methods.register
@dataclass(frozen=True)
class GradInput(GradientMethod):
    """Image times gradient of the class logit, summed over each patch.

    E = Σ over channels and pixels of a patch of x ⊙ ∂y_c/∂x; signed. x is the normalized image, so the mean color
    of the dataset contributes nothing. Cost: the shared backward (≈1 forward).

    With ``backward=libra`` it is read as its authors do, at the output e of the patch embedding, E = Σ_d e ⊙ ∂y_c/∂e,
    which is ``cp_lrp``.
    """

    base_name = "grad_input"
    paper = "Shrikumar et al., Learning Important Features, ICML 2017"
    cost = "≈1, shared"
    requirement = Requirement.IMAGES

    def unsupported(self, anatomy: Network) -> str | None:
        if self.backward == "libra" and not isinstance(anatomy, Anatomy):
            return "backward=libra is read at the embedding of a plain vision transformer; take cp_lrp:read=pixels"
        return super().unsupported(anatomy)

    def needs(self, anatomy: Network) -> Capture:
        return Capture.IMAGE_GRADIENTS if self.backward == "ordinary" else Capture.EMBEDDING_GRADIENTS

    def compute(self, trace: Any, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets, self.backward_pass)
        if self.backward == "libra":
            return embedding_relevance(trace, gradients.embedding)
        assert gradients.images is not None
        return trace.patch_sums(trace.images * gradients.images)
