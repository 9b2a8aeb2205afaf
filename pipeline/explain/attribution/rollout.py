"""Attention rollout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.readout_attention import pooler_weights, readout_attention, readout_weights
from pipeline.explain.capture import Capture
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class Rollout(Method):
    """Attention multiplied through all layers, each averaged with its skip connection.

    a_l = ½ mean_h A_l + ½ I;  R = a_L … a_1;  E = read-out row of R, patch columns. Rows of a_l sum to 1
    already. With an attention pooler its row (mean over heads) is the first factor of the product.

    Only one row of R is read, so this row is multiplied through the layers, n² per layer; the n³ product
    of matrices is never computed. Cost: the attention matrices, one block at a time.
    """

    base_name = "rollout"
    class_specific = False
    paper = "Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020"
    cost = "≈0.1"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.MEAN_ATTENTION

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        blocks = trace.anatomy.depth
        row, attention = readout_weights(trace), readout_attention(trace).mean(1)
        if trace.pooler is not None:
            row = pooler_weights(trace, attention)
        else:  # its rows of the last block are all that is needed of that one
            row, blocks = 0.5 * row + 0.5 * attention, blocks - 1
        for index in reversed(range(blocks)):
            row = 0.5 * row + 0.5 * torch.einsum("bi,bij->bj", row, trace.mean_attention(index))
        return trace.to_grid(row[:, trace.anatomy.patch_tokens])
