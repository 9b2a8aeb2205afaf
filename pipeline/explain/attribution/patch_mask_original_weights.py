"""Patch-level mask prediction with the unchanged weights of the model."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.attention_capture import ReplaceAttentionOutput
from pipeline.explain.method import Method, constant_probability_fault, readout_fault
from pipeline.explain.network import Network, Requirement
from pipeline.explain.network_trace import NetworkTrace, gather_class_values
from pipeline.explain.readout import PATCH_READOUT_DESIGN, patch_logits, patch_probabilities
from pipeline.explain.registry import methods
from pipeline.explain.target_score import PatchTarget, target_fault
from pipeline.explain.trace import Trace


@methods.register
@dataclass(frozen=True)
class PatchMaskZeroShot(Method):
    """Probability of the class by the classifier, applied to each patch; the network is not changed.

    E_i = σ(head(fc_norm(norm(x_i)))_c) with x_i the patch tokens after the last block: the read-out of
    ``pm`` without its training. Where norm precedes the mean (``fc_norm`` off), the mean over patches of the
    logits is the logit of the image: class activation mapping. A class-token network was never
    trained there: its logits have no gradient at these tokens. In a network that is no plain vision transformer x_i is
    a position of the features in front of the mean. Cost: N·D·C, about 1 % of a forward.

    Options:
        target: the number of each patch that is read, the ``probability`` or one of the [targets](#targets).
    """

    base_name = "pm_zs"
    multi_target = True
    paper = "after Kang et al., Patch-level mask prediction, PRL 187, 2025; a design, its text is not public"
    provenance = PATCH_READOUT_DESIGN
    cost = "≈0.01"
    later_options = ("target",)
    requirement = Requirement.FEATURES

    target: PatchTarget = "probability"

    def unsupported(self, anatomy: Network) -> str | None:
        if fault := readout_fault(anatomy):
            return fault
        if anatomy.readout == "features":
            return "its classifier does not read the mean of the features, so that it cannot read a single position"
        return _patch_fault(anatomy, self.target)

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        return _class_maps(trace, trace.patch_logits(), targets, self.target)


@methods.register
@dataclass(frozen=True)
class PatchMaskValue(Method):
    """``pm_zs`` where each patch attends only to itself in the last block; the network is not changed.

    E_i = σ(head(fc_norm(norm(x̂_i)))_c) with x̂_i = y_i + mlp(norm2(y_i)), y_i = x_i + proj(v_i): the value
    replaces the attention output, as MaskCLIP reads a network's last layer. In a class-token network this
    path was trained, the ordinary one was not. Cost: the MLP of one block.

    Options:
        target: the number of each patch that is read, the ``probability`` or one of the [targets](#targets).
    """

    base_name = "pm_value"
    multi_target = True
    paper = "after Zhou et al., MaskCLIP, ECCV 2022 (arXiv 2112.01071), and Kang et al., PRL 187, 2025; a design"
    provenance = PATCH_READOUT_DESIGN
    cost = "≈0.1"
    later_options = ("target",)

    target: PatchTarget = "probability"

    def unsupported(self, anatomy: Network) -> str | None:
        return _patch_fault(anatomy, self.target)

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        anatomy = trace.anatomy
        # Test-time registers take the largest values among all tokens; without them a token needs no other.
        needed = slice(None) if anatomy.registers else anatomy.patch_tokens
        with trace.autocast(), ReplaceAttentionOutput(trace.last_attention.value[:, :, needed].detach()):
            tokens = trace.model.blocks[-1](trace.block_input(-1)[:, needed].detach())
        patches = tokens[:, anatomy.patch_tokens] if anatomy.registers else tokens
        with trace.autocast():
            logits = patch_logits(trace.model, anatomy, patches)
        return _class_maps(trace, logits.to(trace.images.dtype), targets, self.target)


def _patch_fault(anatomy: Network, target: PatchTarget) -> str | None:
    """Return why patches cannot be read so, such as by the softmax of one text; None if they can."""
    if target != "probability":
        return target_fault(anatomy, target)
    return constant_probability_fault(anatomy) if anatomy.classifier == "ZeroShotHead" else None


def _class_maps(trace: NetworkTrace, logits: Tensor, targets: Tensor, target: PatchTarget) -> Tensor:
    """Compute maps of the logits [B, N, C] of positions."""
    if target == "probability":
        return trace.to_grid(gather_class_values(patch_probabilities(trace.model, logits), targets))
    return trace.to_grid(trace.target_values(logits, targets, target).transpose(1, 2))
