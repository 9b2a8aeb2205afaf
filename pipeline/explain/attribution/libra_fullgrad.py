"""FullGrad+ by the backward of LibraGrad."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.gradient_method import TargetMethod
from pipeline.explain.capture import BackwardPass, Capture
from pipeline.explain.network import Requirement
from pipeline.explain.registry import methods
from pipeline.explain.relevance_rules import LIBRA
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class LibraFullGrad(TargetMethod):
    """Relevance of a patch's token before every block, and of all biases that act on it.

    E_i = Σ_l Σ_d h_l[i, d] ∂y_c/∂h_l[i, d] + Σ over linear layers and layer norms of blocks and the final norm of
    Σ_k bias_k ∂y_c/∂out[i, k], with h_l the input of block l (of the first, with positions) and the gradient by the
    rules of LibraGrad (``backward=libra``). Signed. With l = 0 alone, and with the tokens and biases that belong to no
    patch, the sum is the logit. Biases of patch embedding, ``fc_norm`` and head belong to none; of an attention pooler
    those of keys and values do. Cost: the backward of ``cp_lrp``, which it shares.
    """

    base_name = "libra_fullgrad"
    paper = "FullGrad+ of Mehri et al., LibraGrad, CVPR 2025 (arXiv 2411.16760); Srinivas & Fleuret, NeurIPS 2019"
    provenance = "rules of the authors' code"
    cost = "≈1.2, shared with cp_lrp"

    @property
    def requires(self) -> tuple[Requirement, ...]:
        return Requirement.ATTENTION, Requirement.LAYERS

    @property
    def backward_pass(self) -> BackwardPass:
        return BackwardPass(self.target, LIBRA)

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TOKEN_GRADIENTS

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets, self.backward_pass)
        assert gradients.biases is not None
        total = gradients.biases
        for block, gradient in enumerate(gradients.block_inputs):
            total = total + (trace.block_input(block) * gradient).sum(-1)
        return trace.to_grid(total[:, trace.anatomy.patch_tokens])
