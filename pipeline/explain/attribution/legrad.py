"""LeGrad."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, capture_attention
from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.capture import Capture
from pipeline.explain.readout import classifier_cosines
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace

Scores = Callable[[Tensor], Tensor]

_EMPTY_PROMPT_LIMIT = 0.8
"""Above this value of the map of an empty prompt the authors' code sets maps to 0."""


@methods.register
@dataclass(frozen=True)
class LeGrad(GradientMethod):
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
        if self.score == "cosine" and self.target != "logit":
            return "score=cosine explains the cosine itself, which no target compares; leave out one of them"
        return super().unsupported(anatomy)

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TOKENS if anatomy.readout == "pool" else Capture.MEAN_OUTPUTS | Capture.ATTENTION

    def first_block(self, anatomy: Anatomy) -> int:
        return 0 if self.layers == "all" else max(0, anatomy.depth - int(self.layers.removeprefix("last")))

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        def explained(scores: Tensor) -> Tensor:
            if self.score == "cosine":
                return scores.gather(1, targets).sum()
            return trace.target_values(scores, targets, self.target).sum()

        read = trace.classify if self.score == "logit" else partial(classifier_cosines, trace.model)
        maps = self._maps(trace, read, explained)
        if not self.empty_prompt:
            return maps
        for prompt in trace.model.head.empty.split(1):
            empty = self._maps(trace, partial(trace.model.head.cosine, text=prompt), torch.sum)
            low, high = empty.amin((2, 3), keepdim=True), empty.amax((2, 3), keepdim=True)
            maps = torch.where((empty - low) / (high - low) > _EMPTY_PROMPT_LIMIT, 0.0, maps)
        return maps

    def _maps(self, trace: Trace, read: Scores, explained: Scores) -> Tensor:
        """Compute the maps [B, 1, h, w] of a score: one backward of the sum serves the batch.

        Args:
            trace: a recorded forward.
            read: returns scores [B, M] of features [B, D].
            explained: returns the sum over the batch of what is explained of the scores.
        """
        blocks = range(self.first_block(trace.anatomy), trace.anatomy.depth)
        total = trace.images.new_zeros(())
        for block in blocks:
            if trace.pooler is None:
                attention = trace.attention(block)
                with trace.graph(self.backward_pass):
                    scores = read(trace.features(trace.mean_block_output(block)))
            else:
                attention, scores = self._read_by_pooler(trace, block, read)
            with torch.enable_grad():
                score = explained(scores)
            (gradient,) = trace.backward(score, [attention.output], self.backward_pass.rules)
            total = total + attention.gradient(gradient).relu_().mean((1, 2))  # [B, n]
        return trace.to_grid(total[:, trace.anatomy.patch_tokens] / len(blocks))

    def _read_by_pooler(self, trace: Trace, block: int, read: Scores) -> tuple[AttentionCall, Tensor]:
        """Compute the scores of a block's output by the pooler, and return its attention, where the graph begins."""
        calls: list[AttentionCall] = []
        model, tokens = trace.model, trace.block_output(block)[:, trace.anatomy.read_places].detach()
        with trace.graph(self.backward_pass), capture_attention(model.attn_pool, calls.append, detach_output=True):
            with trace.autocast():
                tokens = tokens if self.no_final_norm else model.norm(tokens)
                features = model.fc_norm(model.attn_pool(tokens))
            return calls[0], read(features)
