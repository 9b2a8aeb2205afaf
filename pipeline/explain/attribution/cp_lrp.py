"""CP-LRP."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, Trace


@methods.register
@dataclass(frozen=True)
class CPLRP(Method):
    """Relevance that is conserved from the logit back to the patches.

    E_i = Σ_d e_id g_id with e the patch embedding's output [N, D] (before class token and positions) and g the
    gradient of y_c in a graph with the same values but other derivatives: layer norm divides by a constant
    standard deviation, attention probabilities are constants (q and k carry no gradient), GELU(x) is x times
    the constant Φ(x), QuickGELU(x) x times the constant σ(1.702x), and a similarity to a text divides by a constant
    norm. Signed. In a network without biases the relevance of all inputs, including class
    token and positions, sums to the logit. Cost: a backward of its own (≈1 forward) through the shared graph.

    LXT calls this attention rule CP-LRP and combines it for ViTs with zennit's γ-rules; none are used here.
    """

    base_name = "cp_lrp"
    paper = "Ali et al., XAI for Transformers, ICML 2022; rules as in Achtibat et al., AttnLRP, ICML 2024"
    cost = "≈1"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.LRP_BACKWARD

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.norm != "LayerNorm":
            return f"its rule is defined for LayerNorm, not {anatomy.norm}"
        if not set(anatomy.activation.split(", ")) <= {"GELU", "GELUTanh", "QuickGELU"} or anatomy.mlp != "Mlp":
            return f"its rule is defined for an MLP with GELU or QuickGELU, not {anatomy.mlp} with {anatomy.activation}"
        if anatomy.attention.startswith("gated"):
            return "it has no rule for the gate of an attention"
        return None

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        with trace.lrp_mode.lrp_backward():
            (gradient,) = trace.backward(trace.target_score(targets), [trace.embedding])
        return trace.to_grid((trace.embedding * gradient).sum(-1).flatten(1))
