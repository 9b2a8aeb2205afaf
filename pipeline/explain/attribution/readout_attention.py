"""Rows of attention that the read-out reads."""

from torch import Tensor

from pipeline.explain.attention_capture import upcast
from pipeline.explain.trace import Trace


def readout_queries(trace: Trace) -> slice:
    """Queries of a block that the read-out reads: the class token, or all patch tokens."""
    return slice(0, 1) if trace.anatomy.readout == "token" else slice(trace.anatomy.prefix_tokens, None)


def readout_attention(trace: Trace) -> Tensor:
    """How much the read-out attends to each token of the last layer: [B, H, n], rows sum to 1.

    Class token: its row of the last block. Mean: the mean of the rows of the patch tokens. Attention
    pooler: the row of its latent query.
    """
    if trace.pool is not None:
        return trace.pool.attention.probabilities()[:, :, 0]
    return trace.last.attention.probabilities(readout_queries(trace)).mean(2)


def readout_weights(trace: Trace) -> Tensor:
    """What the read-out takes of the last block's tokens, before any attention: [B, n], rows sum to 1."""
    row = upcast(trace.images).new_zeros(trace.last.tokens.shape[:2])
    rows = readout_queries(trace)
    row[:, rows] = 1
    return row / row.sum(1, keepdim=True)
