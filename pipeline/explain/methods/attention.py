"""Raw attention of the last layer."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


def readout_row(trace: Trace) -> Tensor:
    """How much the read-out attends to each token of the last layer: [B, H, n], rows sum to 1.

    Class token: its row of the last block. Mean: the mean of the rows of the patch tokens. Attention
    pooler: the row of its latent query.
    """
    if trace.pool is not None:
        return trace.pool.attention.probabilities()[:, :, 0]
    attention = trace.last.attention
    if trace.anatomy.readout == "token":
        return attention.probabilities(slice(0, 1))[:, :, 0]
    return attention.probabilities(slice(trace.anatomy.prefix_tokens, None)).mean(2)


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
