"""LeGrad."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Attention, Need, Site, Trace, watch


@methods.register
@dataclass(frozen=True)
class LeGrad(Method):
    """Gradient of each layer's own class score with respect to its attention, positive part, mean.

    For each block l: z_l = mean of all n tokens of its output, s_l = logit of the class from z_l by the
    final norm and the classifier, E_l[j] = mean over heads h and queries i of ReLU(∂s_l/∂A_l[h, i, j]);
    E = mean of E_l over the blocks, prefix keys dropped (the paper's equations for E_l and E).

    Attention enters its block linearly, o = A v, so ∂s/∂A[h, i, j] = ⟨∂s/∂o[h, i], v[h, j]⟩: only what
    lies between o and s_l is differentiated, that is projection, MLP, norm and head of that one block.
    Cost: 0.73 forwards for all blocks of ViT-B/16.

    With an attention pooler (SigLIP) each block's tokens go through final norm and pooler, and the
    gradient is taken with respect to the pooler's attention.

    Options:
        layers: ``all`` blocks as in the paper, or the last so many (``last2`` is the default of the
            authors' code).

    The score here is the raw logit; the authors' code for CLIP takes the cosine with the text.
    """

    base = "legrad"
    paper = "Bousselham et al., LeGrad, ICCV 2025 (arXiv 2404.03214)"
    cost = "≈0.7"
    need = Need.TAILS

    layers: Literal["all", "last1", "last2", "last4"] = "all"

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        depth = trace.anatomy.depth
        count = depth if self.layers == "all" else min(depth, int(self.layers.removeprefix("last")))
        of_layer = _of_pooled_layer if trace.pool is not None else _of_layer
        total = sum(of_layer(trace, index, targets) for index in range(depth - count, depth))
        assert isinstance(total, Tensor)
        return trace.grid(total[:, trace.anatomy.prefix_tokens :] / count)


def _of_layer(trace: Trace, index: int, targets: Tensor) -> Tensor:
    """E_l for every token: [B, n]."""
    with torch.enable_grad():
        scores = trace.classify(trace.outputs[index].mean(1))
    return _positive_gradient(trace.site(index).attention, scores, targets)


def _of_pooled_layer(trace: Trace, index: int, targets: Tensor) -> Tensor:
    """E_l for every token, by the pooler: [B, n]."""
    sites: list[Site] = []
    tokens = trace.outputs[index]
    with torch.enable_grad(), watch(trace.model.attn_pool, sites.append, leaf=True):
        pooled = trace.model.attn_pool(trace.model.norm(tokens))
        scores = trace.model.head(trace.model.fc_norm(pooled))
    return _positive_gradient(sites[0].attention, scores, targets)


def _positive_gradient(attention: Attention, scores: Tensor, targets: Tensor) -> Tensor:
    """Mean over heads and queries of ReLU(∂score/∂A): [B, n].

    The score of an image depends on no other image, so one backward of their sum serves the batch.
    """
    with torch.enable_grad():
        chosen = scores.gather(1, targets[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, attention.output, retain_graph=True)
    with torch.no_grad():
        return (gradient @ attention.value.transpose(-1, -2)).relu_().mean((1, 2))
