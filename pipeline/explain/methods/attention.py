"""Raw attention of the last layer."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace
from pipeline.explain.watch import full


def readout_rows(trace: Trace) -> slice:
    """Queries of a block that the read-out reads: the class token, or all patch tokens."""
    return slice(0, 1) if trace.anatomy.readout == "token" else slice(trace.anatomy.prefix_tokens, None)


def readout_row(trace: Trace) -> Tensor:
    """How much the read-out attends to each token of the last layer: [B, H, n], rows sum to 1.

    Class token: its row of the last block. Mean: the mean of the rows of the patch tokens. Attention
    pooler: the row of its latent query.
    """
    if trace.pool is not None:
        return trace.pool.attention.probabilities()[:, :, 0]
    return trace.last.attention.probabilities(readout_rows(trace)).mean(2)


def first_row(trace: Trace) -> Tensor:
    """What the read-out takes of the last block's tokens, before any attention: [B, n], rows sum to 1."""
    row = full(trace.images).new_zeros(trace.last.tokens.shape[:2])
    rows = readout_rows(trace)
    row[:, rows] = 1
    return row / row.sum(1, keepdim=True)


@methods.register
@dataclass(frozen=True)
class Attention(Method):
    """Attention of the read-out to each patch in the last layer, mean over heads.

    E = mean_h A_L[h, read-out, patches]. Cost: none beyond the forward.
    """

    base = "attention"
    by_class = False
    paper = "Vaswani et al. 2017; as a baseline in Chefer et al. CVPR 2021"
    cost = "0"

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        row = readout_row(trace).mean(1)
        return trace.grid(row[:, trace.anatomy.prefix_tokens :])
