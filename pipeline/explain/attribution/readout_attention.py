"""Attention that the read-out pays to the tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.attention_capture import upcast
from pipeline.explain.trace import Trace


def readout_queries(trace: Trace) -> slice:
    """Return the queries of a block among which are those that the read-out reads.

    They are the class token, or all patch tokens; prefix and patch tokens where it reads both.
    """
    if trace.anatomy.readout == "token+mean":
        return trace.anatomy.read_places
    return slice(0, 1) if trace.anatomy.readout == "token" else trace.anatomy.patch_tokens


def mean_over_queries(trace: Trace, rows: Tensor) -> Tensor:
    """Compute the mean over the queries that the read-out reads, each with its weight in the read-out.

    Args:
        trace: a recorded forward.
        rows: [B, H, m, n], the rows of ``readout_queries``.

    Returns:
        [B, H, n].
    """
    if trace.anatomy.readout == "token+mean":
        return torch.einsum("bi,bhij->bhj", readout_weights(trace)[:, readout_queries(trace)].to(rows), rows)
    return rows.mean(2)


def readout_attention(trace: Trace) -> Tensor:
    """Compute the attention of the read-out to each token of the last layer: [B, H, n], rows sum to 1.

    Class token: its row of the last block. Mean: the mean of the rows of the patch tokens. Both concatenated: the mean
    of these two. Attention pooler: the row of its latent query.
    """
    if trace.pooler is not None:
        return trace.pooler.probabilities()[:, :, 0]
    return mean_over_queries(trace, trace.last_attention.probabilities(readout_queries(trace)))


def pooler_weights(trace: Trace, rows: Tensor) -> Tensor:
    """Return the weights of an attention pooler [B, N] as weights of the tokens of the last block: [B, n]."""
    return F.pad(rows, (0, trace.anatomy.registers))


def readout_weights(trace: Trace) -> Tensor:
    """Compute the weights with which the read-out reads the last block's output tokens: [B, n], rows sum to 1."""
    weights = upcast(trace.images).new_zeros(trace.last_attention.tokens.shape[:2])
    queries = readout_queries(trace)
    weights[:, queries] = 1
    if trace.anatomy.readout == "token+mean":
        weights[:, 0], weights[:, 1 : trace.anatomy.prefix_tokens] = trace.anatomy.patches, 0
    return weights / weights.sum(1, keepdim=True)
