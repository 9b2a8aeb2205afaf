"""TS-CAM."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.capture import Capture
from pipeline.explain.registry import methods
from pipeline.explain.semantic_maps import BIAS, WEIGHT, class_token_fault, semantic_maps
from pipeline.explain.trace import Trace, record_forward
from schemas.errors import UsageError


@methods.register
@dataclass(frozen=True)
class TSCAM(LearnedMethod):
    """Semantic map of the class, by a convolution trained for it, times the attention of the class token.

    E_c = S_c ⊙ A. S = 3 × 3 convolution of the patch tokens after the last block and the final norm, one map for each
    class; trained by cross-entropy of its means over the patches (``vitatlas train tscam``). A = mean over layers and
    heads of the attention of the class token to the patches. (The public code takes the sum over layers, L times as
    much.) The artifact holds the convolution and, unless its backbone was frozen, the fine-tuned network: then S and A
    are those of that network, in its own forward, and all other methods explain the network that was given.

    Options:
        artifact: safetensors file of the convolution and the fine-tuned network.

    Extra outputs:
        probability: of the class for the image, by the means of S.
        rank: number of classes with a higher one; 0 is the prediction of TS-CAM.
    """

    base_name = "tscam"
    multi_target = True
    paper = "Gao et al., TS-CAM: Token Semantic Coupled Attention Map, ICCV 2021 (arXiv 2103.14862)"
    cost = "≈1.1; ≈0.1 with a frozen backbone"
    extra_outputs = ("probability", "rank")

    def needs(self, anatomy: Anatomy) -> Capture:
        has_network = self.artifact and len(self.loaded_artifact.tensors) > 2
        return Capture.LAST_BLOCK if has_network else Capture.ATTENTION

    def check_artifact(self) -> None:
        super().check_artifact()
        artifact = self.loaded_artifact
        if artifact.record is None or not {WEIGHT, BIAS} <= artifact.tensors.keys():
            raise UsageError(f"{self.artifact}: is not an artifact of TS-CAM; make one with vitatlas train tscam")

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if fault := class_token_fault(anatomy) or super().unsupported(anatomy):
            return fault
        shape, expected = self.loaded_artifact.tensors[WEIGHT].shape, (anatomy.classes, anatomy.width, 3, 3)
        if shape != expected:
            return f"the convolution of {self.artifact} has the shape {tuple(shape)}, and this model needs {expected}"
        return None

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        like = trace.images
        weights = _cached_weights(self.artifact, self.loaded_artifact.digest, like.device, like.dtype)
        convolution = weights[WEIGHT], weights[BIAS]
        network = {name: tensor for name, tensor in weights.items() if name not in (WEIGHT, BIAS)}
        if not network:
            maps, attention = _maps_and_attention(trace, *convolution)
        else:
            forward = _OtherWeights(trace, *convolution)
            if network.keys() != forward.state_dict().keys():
                raise UsageError(f"{self.artifact}: its tensors do not fit the model of its record; train it again")
            maps, attention = functional_call(forward, network, (like.detach(),))
        logits = maps.mean((2, 3))
        of_class = logits.gather(1, targets)
        trace.extra_outputs["probability"] = trace.probabilities(logits).gather(1, targets)
        trace.extra_outputs["rank"] = (logits[:, None] > of_class[..., None]).sum(2).to(like.dtype)
        patches = maps.flatten(2).gather(1, targets[..., None].expand(-1, -1, trace.anatomy.patches))
        return trace.to_grid(patches * attention[:, None])


class _OtherWeights(nn.Module):
    """Forward of the same images by the network with other weights, for ``functional_call``."""

    def __init__(self, trace: Trace, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model, self.trace, self.convolution = trace.model, trace, (weight, bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``_maps_and_attention`` returns."""
        given = self.trace
        trace = record_forward(
            self.model, given.anatomy, images, Capture.ATTENTION, given.keys, given.seed, given.precision
        )
        return _maps_and_attention(trace, *self.convolution)


def _maps_and_attention(trace: Trace, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute S, [B, C, h, w], and A, [B, N]."""
    with trace.autocast():
        maps = semantic_maps(trace.model, trace.anatomy, trace.last_output, weight, bias)
    rows = (trace.attention(block).probabilities(slice(0, 1)) for block in range(trace.anatomy.depth))
    total: Tensor = sum(row[:, :, 0, trace.anatomy.patch_tokens].mean(1) for row in rows)  # type: ignore[assignment]
    return maps, total / trace.anatomy.depth


@lru_cache(maxsize=2)
def _cached_weights(file: str, digest: str, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Load tensors onto a device, cached between batches."""
    return {name: tensor.to(device, dtype) for name, tensor in read_artifact(file).tensors.items()}
