"""Layer-wise relevance propagation: CP-LRP and AttnLRP."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.gradient_method import TargetMethod, embedding_relevance
from pipeline.explain.capture import BackwardPass, Capture
from pipeline.explain.network import Network, Requirement
from pipeline.explain.registry import methods
from pipeline.explain.relevance_rules import ATTN_LRP, LIBRA, Rules


@dataclass(frozen=True)
class RelevanceMethod(TargetMethod):
    """Base of methods of gradient × input by the rules of ``pipeline.explain.relevance_rules``.

    Options:
        read: where relevance is read: at the output of the patch ``embedding`` of a plain vision transformer, or at
            the ``pixels`` of any network. Without γ the two differ by the bias of the embedding only.
        gamma: γ, which favours contributions that have the sign of a layer's output: of every linear layer and, at
            the pixels, of every convolution; 0 is none.
        gamma_in_attention: whether the layers of modules that compute attention have γ. In LXT's example for
            torchvision they have none, in hilrp they have it; the two maps differ by more than their largest value.
        linear_gamma: γ of linear layers, where convolutions have another (LXT's example: 0.25 and 0.05).
    """

    requirement: ClassVar[Requirement] = Requirement.LAYERS
    later_options: ClassVar[tuple[str, ...]] = ("target", "read", "gamma", "gamma_in_attention", "linear_gamma")

    read: Literal["embedding", "pixels"] = "embedding"
    gamma: float = 0.0
    gamma_in_attention: bool = True
    linear_gamma: float | None = None

    @property
    @abstractmethod
    def attention_rules(self) -> Rules:
        """Rules without γ."""

    @property
    def _linear_gamma(self) -> float:
        return self.gamma if self.linear_gamma is None else self.linear_gamma

    @property
    def backward_pass(self) -> BackwardPass:
        linear = self._linear_gamma
        rules = replace(
            self.attention_rules,
            gamma=linear,
            convolution_gamma=self.gamma if self.read == "pixels" else 0.0,
            gamma_in_attention=self.gamma_in_attention or not linear,
        )
        return BackwardPass(self.target, rules)

    @classmethod
    def default_for(cls, anatomy: Network) -> Self:
        return cls() if isinstance(anatomy, Anatomy) else cls(read="pixels")

    def needs(self, anatomy: Network) -> Capture:
        return Capture.EMBEDDING_GRADIENTS if self.read == "embedding" else Capture.IMAGE_GRADIENTS

    def unsupported(self, anatomy: Network) -> str | None:
        if self.gamma < 0 or (self.linear_gamma or 0) < 0:
            return "γ cannot be negative"
        if not self.gamma_in_attention and not self._linear_gamma:
            return "gamma_in_attention=false says where γ is used, and the linear layers have none; give gamma"
        if isinstance(anatomy, Anatomy):
            if self.read == "pixels" and anatomy.embedding != "PatchEmbed":
                return f"there are no rules for the patch embedding {anatomy.embedding}; take read=embedding"
        elif self.read == "embedding":
            return "its first layer makes no patches of the grid of its maps; take read=pixels"
        elif not self.gamma_in_attention and not anatomy.attention_modules:
            return "it has no attention by a softmax, of which gamma_in_attention=false could leave γ out"
        elif not self.gamma_in_attention and "" in anatomy.attention_modules:
            return "it computes attention in its own forward, so that gamma_in_attention=false would leave γ out of all"
        return super().unsupported(anatomy)

    def compute(self, trace: Any, targets: Tensor) -> Tensor:
        gradients = trace.gradients(targets, self.backward_pass)
        if self.read == "pixels":
            assert gradients.images is not None
            return trace.patch_sums(trace.images * gradients.images)
        return embedding_relevance(trace, gradients.embedding)


@methods.register
@dataclass(frozen=True)
class CPLRP(RelevanceMethod):
    """Relevance that is conserved from the logit back to the patches.

    E_i = Σ_d e_id g_id with e the patch embedding's output [N, D] (before class token and positions) and g the
    gradient of y_c in a graph with the same values but other derivatives: layer norm and RMS norm divide by a constant
    deviation, attention probabilities are constants (q and k carry no gradient), GELU(x) is x times
    the constant Φ(x) and other activation functions likewise, the product of a gated MLP (SwiGLU) passes half to each
    factor, and a similarity to a text divides by a constant norm. Signed. In a network without biases the relevance of
    all inputs, including class token and positions, sums to the logit. Cost: a backward of its own (≈1 forward) through
    the shared graph.

    Other networks have the same rules, read at the pixels: E = Σ over channels and pixels of a cell of x g. Group norms
    divide by a constant, weights of attention and gates (sigmoids) are constants, any other product of two activations
    passes half to each; γ takes a convolution and its batch norm for one layer ([rules](../howto/networks.md#rules)).

    LXT calls this attention rule CP-LRP and combines it for ViTs with γ (``read=pixels:gamma=0.25``). With γ maps
    depend on the sign of y_c: of a class with a negative logit they show the evidence against it.
    """

    base_name = "cp_lrp"
    paper = "Ali et al., XAI for Transformers, ICML 2022; rules as in Achtibat et al., AttnLRP, ICML 2024"
    cost = "≈1.2; with γ ≈3.7"

    @property
    def attention_rules(self) -> Rules:
        return LIBRA


@methods.register
@dataclass(frozen=True)
class AttnLRP(RelevanceMethod):
    """Relevance as in ``cp_lrp`` that also flows through the softmax to queries and keys.

    E_i = Σ_d e_id g_id as in ``cp_lrp``, but attention is not constant: the products q kᵀ and A v pass half of their
    gradient to each operand, the softmax its ordinary gradient. So the gradients of queries and keys count a quarter
    and that of values a half, and no attention matrix is needed. Signed. Relevance is not conserved: the softmax is not
    homogeneous. Cost: a backward of its own (≈1 forward) through the shared graph.
    """

    base_name = "attn_lrp"
    paper = "Achtibat et al., AttnLRP, ICML 2024 (arXiv 2402.05602); γ as in their code for vision transformers"
    cost = "≈1.2; with γ ≈3.7"

    @property
    def attention_rules(self) -> Rules:
        return ATTN_LRP
