"""The read-out of patch-level mask prediction on untouched weights."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace, at_classes
from pipeline.explain.watch import Substitute


def patch_logits(trace: Trace) -> Tensor:
    """Logits of every patch token of the last block's output by the network's own classifier: [B, N, C].

    Class token or mean: head(fc_norm(norm(x_i))). Attention pooler: final norm, then each patch alone as a
    sequence of length one, to which attention is 1, then the head.
    """
    tokens = trace.last_output[:, trace.anatomy.prefix_tokens :]
    if trace.pool is None:
        return trace.classify(trace.features(tokens))
    # Of one key and value each, attention gives the value itself.
    value = trace.pool.attention.value
    alone = value.transpose(1, 2).flatten(0, 1)[:, :, None]  # [B·N, H, 1, d]
    with trace.network():
        with Substitute(alone):
            pooled = trace.model.attn_pool(trace.pool.tokens.flatten(0, 1)[:, None])
        features = trace.model.fc_norm(pooled)
    return trace.classify(features).unflatten(0, (-1, trace.anatomy.patches))


@methods.register
@dataclass(frozen=True)
class PatchMaskZeroShot(Method):
    """Probability of the class by the classifier, read at each patch; the network as it is.

    E_i = σ(head(fc_norm(norm(x_i)))_c) with x_i the patch tokens behind the last block: the read-out of
    ``pm`` without its training. Where norm precedes the mean (``fc_norm`` off), the mean over patches of the
    logits is the logit of the image: class activation mapping. A class-token network never learnt to say
    anything there, since its logits have no gradient at these tokens. Cost: N·D·C, about 1 % of a forward.
    """

    base = "pm_zs"
    at_once = True
    paper = "after Kang et al., Patch-level mask prediction, PRL 187, 2025; a design, its text is not public"
    cost = "≈0.01"

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        probabilities = patch_logits(trace).to(trace.images.dtype).sigmoid()
        return trace.grid(at_classes(probabilities, targets))
