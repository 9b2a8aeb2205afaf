"""Patch-level mask prediction."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from torch.func import functional_call

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.network_trace import gather_class_values
from pipeline.explain.readout import PATCH_READOUT_DESIGN, PatchReadout, patch_probabilities
from pipeline.explain.registry import methods
from pipeline.explain.target_score import PatchTarget, compared_classes, target_fault, target_values
from pipeline.explain.trace import Trace
from schemas.errors import UsageError


@methods.register
@dataclass(frozen=True)
class PatchMask(LearnedMethod):
    """Probability that a patch shows the class, by a network that was fine-tuned to classify each patch.

    E_i = σ(head(fc_norm(norm(x_i)))_c): the network's own classifier at the patch tokens x_i after the last
    block (see ``pm_zs``), after ``vitatlas train pm`` trained it there with masks of less than 1 % of
    the images, or with pseudo-masks. No parameter is added. It has its own weights, so it needs its own forward.
    The paper's full text and code are not public; details that it leaves open follow the design ``pm_design_v1``.

    Options:
        artifact: safetensors file of the fine-tuned network.
        target: the number of each patch that is read, the ``probability`` or one of the [targets](#targets), compared
            with the classes of the fine-tuned network.

    Extra outputs:
        probability: of the class for the image, by the fine-tuned network.
    """

    base_name = "pm"
    multi_target = True
    paper = "Kang et al., Patch-level mask prediction, PRL 187, 2025; a design, its text is not public"
    provenance = PATCH_READOUT_DESIGN
    cost = "1"
    extra_outputs = ("probability",)
    later_options = ("target",)

    target: PatchTarget = field(default="probability", kw_only=True)

    def unsupported(self, anatomy: Anatomy) -> str | None:
        fault = None if self.target == "probability" else target_fault(anatomy, self.target)
        return super().unsupported(anatomy) or fault

    def check_artifact(self) -> None:
        super().check_artifact()
        if self.loaded_artifact.record is None:
            raise UsageError(
                f"{self.artifact}: does not record the network that it was trained from; make it with vitatlas train pm"
            )

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        like = trace.images
        weights = _cached_weights(self.artifact, self.loaded_artifact.digest, like.device, like.dtype)
        readout = PatchReadout(trace.model, trace.anatomy)
        if weights.keys() != readout.state_dict().keys():
            raise UsageError(f"{self.artifact}: its tensors do not fit the model of its record; train it again")
        with trace.autocast():
            logits, patches = functional_call(readout, weights, (like.detach(),))
        trace.extra_outputs["probability"] = trace.probabilities(logits.to(like.dtype)).gather(1, targets)
        patches = patches.to(like.dtype)
        if self.target == "probability":
            return trace.to_grid(gather_class_values(patch_probabilities(trace.model, patches), targets))
        compared = compared_classes(logits, targets, self.target)
        copies = patches.shape[1]
        of_patches = targets[:, None].expand(-1, copies, -1)
        compared = None if compared is None else compared[:, None].expand(-1, copies, -1, -1)
        values = target_values(trace.model, patches, of_patches, self.target, compared)
        return trace.to_grid(values.transpose(1, 2))


@lru_cache(maxsize=2)
def _cached_weights(file: str, digest: str, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Load weights onto a device by their names in a ``PatchReadout``, cached between batches."""
    return {f"model.{name}": tensor.to(device, dtype) for name, tensor in read_artifact(file).tensors.items()}
