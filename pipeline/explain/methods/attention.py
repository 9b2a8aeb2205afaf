"""Raw attention of the last layer."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.methods.attention_rows import readout_row
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


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
