"""Attention that the read-out pays to the tokens."""

from torch import Tensor

from pipeline.explain.attention_capture import upcast
from pipeline.explain.trace import Trace


def readout_queries(trace: Trace) -> slice:
    """Return the queries of a block that the read-out reads: the class token, or all patch tokens."""
    return slice(0, 1) if trace.anatomy.readout == "token" else slice(trace.anatomy.prefix_tokens, None)


def readout_attention(trace: Trace) -> Tensor:
    """Compute the attention of the read-out to each token of the last layer: [B, H, n], rows sum to 1.

    Class token: its row of the last block. Mean: the mean of the rows of the patch tokens. Attention
    pooler: the row of its latent query.
    """
    if trace.pooler is not None:
        return trace.pooler.probabilities()[:, :, 0]
    return trace.last_attention.probabilities(readout_queries(trace)).mean(2)


def readout_weights(trace: Trace) -> Tensor:
    """Compute the weights with which the read-out reads the last block's output tokens: [B, n], rows sum to 1."""
    weights = upcast(trace.images).new_zeros(trace.last_attention.tokens.shape[:2])
    queries = readout_queries(trace)
    weights[:, queries] = 1
    return weights / weights.sum(1, keepdim=True)
