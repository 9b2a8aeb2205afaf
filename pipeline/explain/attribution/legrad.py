"""LeGrad."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, capture_attention
from pipeline.explain.head_modules import ZeroShotHead
from pipeline.explain.method import Method
from pipeline.explain.readout import classifier_cosines
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, Trace

_EMPTY_PROMPT_LIMIT = 0.8
"""Above this value of the map of an empty prompt the authors' code sets maps to 0."""


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
        score: the raw ``logit`` of the class, or the ``cosine`` of its weights and the features: with a zero-shot head
            the similarity of image and text, as the authors' code computes it; scale and bias are then not used.
        no_final_norm: leave out the final norm in front of an attention pooler.
        empty_prompt: with an attention pooler, set a map to 0 where the min-max scaled map of an empty prompt
            (``empty`` of the head file, "a photo of a" in the authors' code) is above 0.8.

    Presets:
        authors_code: their code for SigLIP. Their code for CLIP is ``layers=last2:score=cosine``.
    """

    base_name = "legrad"
    paper = "Bousselham et al., LeGrad, ICCV 2025 (arXiv 2404.03214)"
    cost = "≈0.5"
    presets: ClassVar = {
        "authors_code": {"layers": "last2", "score": "cosine", "no_final_norm": True, "empty_prompt": True}
    }

    layers: Literal["all", "last1", "last2", "last4"] = "all"
    score: Literal["logit", "cosine"] = "logit"
    no_final_norm: bool = False
    empty_prompt: bool = False

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if self.score == "cosine" and anatomy.classifier not in ("Linear", "LinearHead", "ZeroShotHead"):
            return f"score=cosine needs the weights of a linear classifier, not {anatomy.classifier}"
        if anatomy.readout != "pool" and (self.no_final_norm or self.empty_prompt):
            return "no_final_norm and empty_prompt are defined for an attention pooler; leave them out"
        if self.empty_prompt and not anatomy.empty_prompts:
            return "empty_prompt needs a head file with the tensor empty, the embedding of a prompt that names nothing"
        return None

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TOKENS if anatomy.readout == "pool" else Capture.GRAPH | Capture.ATTENTION

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        def score(features: Tensor) -> Tensor:
            scores = trace.classify(features) if self.score == "logit" else classifier_cosines(trace.model, features)
            return scores.gather(1, targets).sum()

        maps = self._maps(trace, score)
        if not self.empty_prompt:
            return maps
        for prompt in trace.model.head.empty.split(1):
            empty = self._maps(trace, partial(_similarity, trace.model.head, prompt))
            low, high = empty.amin((2, 3), keepdim=True), empty.amax((2, 3), keepdim=True)
            maps = torch.where((empty - low) / (high - low) > _EMPTY_PROMPT_LIMIT, 0.0, maps)
        return maps

    def _maps(self, trace: Trace, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute the maps [B, 1, h, w] of a score of features [B, D]: one backward of the sum serves the batch."""
        depth = trace.anatomy.depth
        count = depth if self.layers == "all" else min(depth, int(self.layers.removeprefix("last")))
        pooled = partial(_pooled_layer_map, final_norm=not self.no_final_norm)
        layer_map = _layer_map if trace.pooler is None else pooled
        total = sum(layer_map(trace, block, score) for block in range(depth - count, depth))
        assert isinstance(total, Tensor)
        return trace.to_grid(total[:, trace.anatomy.prefix_tokens :] / count)


def _similarity(head: ZeroShotHead, text: Tensor, features: Tensor) -> Tensor:
    """Sum the similarities of features [B, D] and a text [1, E]."""
    return head.cosine(features, text).sum()


def _layer_map(trace: Trace, block: int, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute E_l of every token: [B, n]."""
    with torch.enable_grad():
        total = score(trace.features(trace.mean_block_output(block)))
    return _positive_gradient(trace, trace.attention(block), total)


def _pooled_layer_map(trace: Trace, block: int, score: Callable[[Tensor], Tensor], final_norm: bool) -> Tensor:
    """Compute E_l of every token by the pooler: [B, n]."""
    calls: list[AttentionCall] = []
    model, tokens = trace.model, trace.block_output(block).detach()
    with torch.enable_grad(), capture_attention(model.attn_pool, calls.append, detach_output=True):
        with trace.autocast():
            features = model.fc_norm(model.attn_pool(model.norm(tokens) if final_norm else tokens))
        total = score(features)
    return _positive_gradient(trace, calls[0], total)


def _positive_gradient(trace: Trace, attention: AttentionCall, score: Tensor) -> Tensor:
    """Compute the mean over heads and queries of ReLU(∂score/∂A): [B, n]."""
    (output_gradient,) = trace.backward(score, [attention.output])
    return attention.gradient(output_gradient).relu_().mean((1, 2))
