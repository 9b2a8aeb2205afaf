"""Vision DiffMask."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy, describe_transformer
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.capture import Capture
from pipeline.explain.diffmask_gates import DiffMaskGates, keep_probability
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace, record_forward
from schemas.errors import UsageError


@methods.register
@dataclass(frozen=True)
class DiffMask(LearnedMethod):
    """Probability that a patch is kept by gates trained to keep as few patches as the prediction needs.

    A probe for each of L + 2 hidden states h⁰ … h^{L+1} gives a gate logit a_l = 15 tanh(W2 tanh(W1 [h⁰; hˡ] + b1)
    + b2) + add [N]; E = Π_l P(z_l ≠ 0) with P(z ≠ 0) = σ(a + 0.2 ln 5), the hard concrete distribution's. The mask
    preserves the whole predicted distribution, so it belongs to the image, not to a class. Cost: the probes,
    about 5 % of a forward.

    The gates are trained for one network (``vitatlas train diffmask``) and refused for any other.

    Options:
        artifact: safetensors file of the gates.
    """

    base_name = "diffmask"
    class_specific = False
    paper = "Nalmpantis et al., Vision DiffMask, CVPRW 2023 (arXiv 2304.06391)"
    cost = "≈0.05"

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TOKENS

    def check_artifact(self) -> None:
        super().check_artifact()
        self._gates(torch.device("cpu"), torch.float32)

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if reason := super().unsupported(anatomy):
            return reason
        gates = self._gates(torch.device("cpu"), torch.float32)
        width, depth = len(gates.placeholder), len(gates.probe) - 2
        if (width, depth) != (anatomy.width, anatomy.depth):
            return f"the gates of {self.artifact} are for {depth} blocks of width {width}"
        return None

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        return trace.to_grid(self._keep_probability(trace).prod(1))

    def gates(self, model: nn.Module, images: Tensor) -> Tensor:
        """Compute the keep probability of every probe: [B, L + 2, h, w].

        Args:
            model: the network that the gates were trained for.
            images: [B, 3, H, W], preprocessed.
        """
        anatomy = describe_transformer(model)
        with preserve_model_state(model), torch.no_grad():
            trace = record_forward(model, anatomy, images, Capture.TOKENS, ("",) * len(images), 0)
            return trace.to_grid(self._keep_probability(trace))

    def _keep_probability(self, trace: Trace) -> Tensor:
        """Compute keep probabilities: [B, L + 2, N]."""
        like = trace.images
        gates = self._gates(like.device, like.dtype)
        return keep_probability(gates.logits([state.to(like) for state in hidden_states(trace)]))

    def _gates(self, device: torch.device, dtype: torch.dtype) -> DiffMaskGates:
        return _cached_gates(self.artifact, self.loaded_artifact.digest, device, dtype)


def hidden_states(trace: Trace) -> list[Tensor]:
    """Return h⁰ … h^{L+1}, patch tokens [B, N, D]: embedding, input of the first block, output of every block."""
    outputs = [trace.block_output(block) for block in range(trace.anatomy.depth)]
    return [
        trace.embedding.flatten(1, -2),
        *(tokens[:, trace.anatomy.patch_tokens] for tokens in (trace.block_input(0), *outputs)),
    ]


def masked_logits(model: nn.Module, gates: DiffMaskGates, trace: Trace, keep: Tensor) -> Tensor:
    """Compute logits [B, C] with patches replaced by the placeholder, before class token and positions are added.

    Args:
        model: the network.
        gates: hold the placeholder.
        trace: a recorded forward of the images.
        keep: z, [B, N] in [0, 1].
    """
    embedding = trace.embedding
    masked = gates.masked(embedding.flatten(1, -2), keep).reshape(embedding.shape)
    patch_embed: nn.Module = model.patch_embed  # type: ignore[assignment]
    with patch_embed.register_forward_hook(lambda *_: masked), trace.autocast():
        logits: Tensor = model(trace.images)
    return logits


@lru_cache(maxsize=4)
def _cached_gates(file: str, digest: str, device: torch.device, dtype: torch.dtype) -> DiffMaskGates:
    """Load gates onto a device, cached between batches."""
    try:
        return DiffMaskGates.from_tensors(read_artifact(file).tensors).requires_grad_(False).to(device, dtype)
    except ValueError as error:
        raise UsageError(
            f"{file}: is not an artifact of Vision DiffMask ({error}); make one with vitatlas train diffmask"
        ) from None
