"""Gates of Vision DiffMask: probability that each patch is kept, from the hidden states of the model."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE, LOW = 0.2, -0.2
"""Parameters of the hard concrete distribution: σ((logit(u) + a)/0.2) stretched to (−0.2, 1) and clipped at 0."""

BOUND = 15.0
"""A gate logit lies in ``add`` ± 15."""


class DiffMaskGates(nn.Module):
    """One probe for each hidden state, and the placeholder that replaces a masked patch.

    Hidden states are patch tokens [B, N, D]: h⁰ the patch embedding's output, h¹ the first block's input, hˡ the
    output of block l − 1 for l = 2 … L + 1 (blocks counted from 1); so L + 2 of them.

    Args:
        width: D.
        depth: L.

    The parameters have the names and shapes of the artifact: ``placeholder`` [D], and for each probe
    ``probe.<l>.W1`` [D/4, 2D], ``b1`` [D/4], ``W2`` [1, D/4], ``b2`` [1], ``add`` [].
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.placeholder = nn.Parameter(torch.zeros(width))
        self.probe = nn.ModuleList(GateProbe(width) for _ in range(depth + 2))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "DiffMaskGates":
        """Make gates from the tensors of an artifact.

        Raises:
            ValueError: tensors are missing, unknown or of a wrong shape; the message names one.
        """
        probes = {name.split(".")[1] for name in tensors if name.startswith("probe.")}
        if "placeholder" not in tensors or len(probes) < 3:
            raise ValueError("it has no placeholder and probes")
        gates = cls(tensors["placeholder"].shape[0], len(probes) - 2)
        expected = {name: tensor.shape for name, tensor in gates.state_dict().items()}
        faults = sorted(set(expected) ^ set(tensors)) or [n for n in expected if expected[n] != tensors[n].shape]
        if faults:
            raise ValueError(
                f"{len(faults)} of its tensors are missing, unknown or of another shape, such as {faults[0]}"
            )
        gates.load_state_dict(dict(tensors))
        return gates

    def logits(self, states: Sequence[Tensor]) -> Tensor:
        """Compute the gate logits a of the first hidden states: [B, len(states), N]."""
        return torch.stack([probe(states[0], state) for probe, state in zip(self.probe, states, strict=False)], 1)

    def masked(self, embedding: Tensor, keep: Tensor) -> Tensor:
        """Replace masked patches: z h⁰ + (1 − z) placeholder.

        Args:
            embedding: h⁰, [B, N, D].
            keep: z, [B, N] in [0, 1].
        """
        return torch.lerp(self.placeholder.to(embedding), embedding, keep[..., None].to(embedding))


class GateProbe(nn.Module):
    """Gate logit from h⁰ and hˡ: a = 15 · tanh(W2 tanh(W1 [h⁰; hˡ] + b1) + b2) + add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W1 = nn.Parameter(torch.zeros(width // 4, 2 * width))
        self.b1 = nn.Parameter(torch.zeros(width // 4))
        self.W2 = nn.Parameter(torch.zeros(1, width // 4))
        self.b2 = nn.Parameter(torch.zeros(1))
        self.add = nn.Parameter(torch.zeros(()))

    def forward(self, embedding: Tensor, state: Tensor) -> Tensor:
        """Compute gate logits [B, N].

        Args:
            embedding: h⁰, [B, N, D].
            state: hˡ, [B, N, D].
        """
        hidden = F.linear(torch.cat([embedding, state], -1), self.W1, self.b1).tanh()
        return BOUND * F.linear(hidden, self.W2, self.b2).tanh()[..., 0] + self.add


def keep_probability(logits: Tensor) -> Tensor:
    """Compute P(z ≠ 0) = σ(a + 0.2 ln 5)."""
    return torch.sigmoid(logits + _SHIFT)


def log_keep_probability(logits: Tensor) -> Tensor:
    """Compute ln P(z ≠ 0), exact where the probability underflows."""
    return F.logsigmoid(logits + _SHIFT)


_SHIFT = -TEMPERATURE * math.log(-LOW)


def sample_gates(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample gates z in [0, 1] from the reparametrized hard concrete distribution.

    Args:
        logits: a, gate logits.
        uniform: random numbers in (0, 1), of the shape of the logits.
    """
    soft = torch.sigmoid((torch.logit(uniform) + logits) / TEMPERATURE)
    return (soft * (1 - LOW) + LOW).clamp(min=0)
