"""Raw attention of the last layer."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.attribution.readout_attention import readout_attention
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class RawAttention(Method):
    """Attention of the read-out to each patch in the last layer, mean over heads.

    E = mean_h A_L[h, read-out, patches]. Cost: nothing beyond the forward.
    """

    base_name = "attention"
    class_specific = False
    paper = "Vaswani et al. 2017; as a baseline in Chefer et al. CVPR 2021"
    cost = "0"

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        row = readout_attention(trace).mean(1)
        return trace.to_grid(row[:, trace.anatomy.patch_tokens])
