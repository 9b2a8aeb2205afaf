"""What a forward is recorded for: activations, linear layers, gradients."""

from dataclasses import dataclass, field
from enum import Flag

from torch import Tensor

from pipeline.explain.attention_capture import upcast
from pipeline.explain.relevance_rules import Rules
from pipeline.explain.target_score import Target


class Capture(Flag):
    """Activations and gradients that a method needs recorded, beside the last attention before the read-out."""

    LAST_BLOCK = 0
    ATTENTION = 1
    """queries, keys and values of every block"""
    TOKENS = 2
    """inputs and outputs of every block"""
    GRAPH = 4
    """a graph to the logits, from the first block that any method needs"""
    LAST_GRADIENTS = 8 | GRAPH
    """gradient of the target with respect to attention output and ``norm1`` output of the last block; in networks that
    are no plain vision transformers, to the features of the layers that the methods name"""
    ATTENTION_GRADIENTS = 16 | LAST_GRADIENTS | ATTENTION
    """gradient with respect to the attention output of every block"""
    IMAGE_GRADIENTS = 32 | GRAPH
    """gradient with respect to the images"""
    EMBEDDING_GRADIENTS = 64 | GRAPH
    """gradient with respect to the output of the patch embedding"""
    LINEAR_LAYERS = 128 | GRAPH
    """inputs and outputs of the linear layers of every block"""
    RULES = 256 | GRAPH
    """the backward passes of ``relevance_rules`` beside the ordinary one"""
    GAMMA = 512 | RULES
    """those with a γ rule too"""
    TOKEN_GRADIENTS = 1024 | RULES | TOKENS
    """gradient with respect to the input of every block, and shares of biases"""
    MEAN_ATTENTION = 2048
    """mean over heads of the attention matrix of every block, for ``mean_attention``"""
    MEAN_OUTPUTS = 4096 | GRAPH
    """what ``mean_block_output`` needs of the MLP of every block"""


@dataclass(frozen=True)
class BackwardPass:
    """One kind of backward pass, which all methods that ask for it share.

    Attributes:
        target: number that is differentiated.
        rules: by which; None is the ordinary gradient.
    """

    target: Target = "logit"
    rules: Rules | None = None

    @property
    def capture(self) -> Capture:
        """What the pass needs recorded."""
        if self.rules is None:
            return Capture.LAST_BLOCK
        return Capture.GAMMA if self.rules.gamma or self.rules.convolution_gamma else Capture.RULES


ORDINARY = BackwardPass()
"""The ordinary gradient of the logit."""


@dataclass
class LinearCall:
    """A linear layer with its input [B, n, in] and its output [B, n, out]."""

    weight: Tensor
    bias: Tensor | None
    input: Tensor
    output: Tensor

    def select(self, tokens: slice) -> "LinearCall":
        """Return the call restricted to some tokens, at least float32."""
        return LinearCall(self.weight, self.bias, upcast(self.input[:, tokens]), upcast(self.output[:, tokens]))


@dataclass
class Gradients:
    """Gradients of each image's target s.

    Attributes:
        attention: ∂s/∂(attention output) of each block, [B, H, n, d]; None where it was not captured.
        pooler: the same of the attention pooler, [B, H, 1, d].
        last_tokens: ∂s/∂(``norm1`` output of the last block), [B, n, D].
        images: ∂s/∂(images).
        embedding: ∂s/∂(output of the patch embedding).
        biases: Σ over biases of bias · ∂s/∂output, [B, n], see ``RuleMode.bias_sums``.
        block_inputs: ∂s/∂(input of each block), [B, n, D]; empty where they were not captured.
        features: ∂s/∂(features) as the network has them, by the name of their layer.
    """

    attention: list[Tensor | None]
    pooler: Tensor | None = None
    last_tokens: Tensor | None = None
    images: Tensor | None = None
    embedding: Tensor | None = None
    biases: Tensor | None = None
    block_inputs: list[Tensor] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)

    def of_block(self, block: int) -> Tensor:
        """Return ∂s/∂(attention output) of a block."""
        gradient = self.attention[block]
        assert gradient is not None, "the method did not declare that it needs the gradient to this block"
        return gradient
