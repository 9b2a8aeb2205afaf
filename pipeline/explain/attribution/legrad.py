"""LeGrad."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, capture_attention
from pipeline.explain.method import Method
from pipeline.explain.readout import classifier_heads
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, Trace


@methods.register
@dataclass(frozen=True)
class LeGrad(Method):
    """Gradient of each layer's own class score with respect to its attention, positive part, mean.

    For each block l: z_l = mean of all n tokens of its output, s_l = logit of the class from z_l by the
    final norm and the classifier, E_l[j] = mean over heads h and queries i of ReLU(∂s_l/∂A_l[h, i, j]);
    E = mean of E_l over the blocks, prefix keys dropped (the paper's equations for E_l and E).

    Attention enters its block linearly, o = A v, so ∂s/∂A[h, i, j] = ⟨∂s/∂o[h, i], v[h, j]⟩: only the
    layers between o and s_l are differentiated: projection, MLP, norm and head of that one block.
    The mean over tokens is computed before the MLP's last linear layer, which makes that layer free.
    Cost: about half a forward for all blocks.

    With an attention pooler (SigLIP) each block's tokens go through final norm and pooler, and the
    gradient is taken with respect to the pooler's attention.

    Options:
        layers: ``all`` blocks as in the paper, or only the last ones (``last2`` is the default of the
            authors' code, torchcam's examples use ``last4``).
        score: the raw ``logit`` of the class, or the ``cosine`` of its weights and the features, as the
            authors' code computes it of a text and an image; the bias is then not used.

    This follows the paper. The authors' code for SigLIP also subtracts the map of an empty prompt and
    leaves out the final norm before the pooler; neither has a counterpart in a classifier.
    """

    base_name = "legrad"
    paper = "Bousselham et al., LeGrad, ICCV 2025 (arXiv 2404.03214)"
    cost = "≈0.5"

    layers: Literal["all", "last1", "last2", "last4"] = "all"
    score: Literal["logit", "cosine"] = "logit"

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if self.score == "cosine" and anatomy.classifier != "Linear":
            return f"score=cosine needs the weights of a linear classifier, not {anatomy.classifier}"
        return None

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TOKENS if anatomy.readout == "pool" else Capture.GRAPH | Capture.ATTENTION

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        depth = trace.anatomy.depth
        count = depth if self.layers == "all" else min(depth, int(self.layers.removeprefix("last")))
        layer_map = self._pooled_layer_map if trace.pooler is not None else self._layer_map
        total = sum(layer_map(trace, block, targets) for block in range(depth - count, depth))
        assert isinstance(total, Tensor)
        return trace.to_grid(total[:, trace.anatomy.prefix_tokens :] / count)

    def _layer_map(self, trace: Trace, block: int, targets: Tensor) -> Tensor:
        """Compute E_l of every token: [B, n]."""
        with torch.enable_grad():
            score = self._score(trace, trace.features(trace.mean_block_output(block)), targets)
        return _positive_gradient(trace, trace.attention(block), score)

    def _pooled_layer_map(self, trace: Trace, block: int, targets: Tensor) -> Tensor:
        """Compute E_l of every token by the pooler: [B, n]."""
        calls: list[AttentionCall] = []
        model, tokens = trace.model, trace.block_output(block).detach()
        with torch.enable_grad(), capture_attention(model.attn_pool, calls.append, detach_output=True):
            with trace.autocast():
                features = model.fc_norm(model.attn_pool(model.norm(tokens)))
            score = self._score(trace, features, targets)
        return _positive_gradient(trace, calls[0], score)

    def _score(self, trace: Trace, features: Tensor, targets: Tensor) -> Tensor:
        """Sum the class scores of features [B, D]: one backward of the sum serves the batch."""
        if self.score == "logit":
            scores = trace.classify(features)
        else:
            unit = F.normalize(features, dim=-1)
            cosines = [
                F.linear(unit, F.normalize(head.weight, dim=-1).to(unit)) for head in classifier_heads(trace.model)
            ]
            scores = torch.stack(cosines).mean(0)
        return scores.gather(1, targets).sum()


def _positive_gradient(trace: Trace, attention: AttentionCall, score: Tensor) -> Tensor:
    """Compute the mean over heads and queries of ReLU(∂score/∂A): [B, n]."""
    (output_gradient,) = trace.backward(score, [attention.output])
    return attention.gradient(output_gradient).relu_().mean((1, 2))
