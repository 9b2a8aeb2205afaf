"""The gates of Vision DiffMask: how likely each patch is kept, read off the hidden states of the network."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE, LOW = 0.2, -0.2
"""Of the hard concrete distribution: σ((logit(u) + a)/0.2) stretched to (−0.2, 1) and cut at 0."""

BOUND = 15.0
"""A gate logit is ``add`` ± 15."""


class DiffMaskGates(nn.Module):
    """One probe for each hidden state, and the placeholder that stands for a masked patch.

    Hidden states are patch tokens [B, N, D]: h⁰ the patch embedding's output, h¹ the first block's input, hˡ the
    output of block l − 1 for l = 2 … L + 1 (blocks counted from 1); so L + 2 of them.

    Args:
        width: D.
        depth: L.

    The parameters have the names and shapes of the artefact: ``placeholder`` [D], and for each probe
    ``probe.<l>.W1`` [D/4, 2D], ``b1`` [D/4], ``W2`` [1, D/4], ``b2`` [1], ``add`` [].
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.placeholder = nn.Parameter(torch.zeros(width))
        self.probe = nn.ModuleList(GateProbe(width) for _ in range(depth + 2))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "DiffMaskGates":
        """Gates from the tensors of an artefact.

        Raises:
            ValueError: they are not those of any gates; the message says which.
        """
        probes = {name.split(".")[1] for name in tensors if name.startswith("probe.")}
        if "placeholder" not in tensors or len(probes) < 3:
            raise ValueError("it has no placeholder and probes")
        gates = cls(tensors["placeholder"].shape[0], len(probes) - 2)
        expected = {name: tensor.shape for name, tensor in gates.state_dict().items()}
        wrong = sorted(set(expected) ^ set(tensors)) or [n for n in expected if expected[n] != tensors[n].shape]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of its tensors are missing, unknown or of another shape, such as {wrong[0]}"
            )
        gates.load_state_dict(dict(tensors))
        return gates

    def logits(self, states: Sequence[Tensor]) -> Tensor:
        """Gate logits a of the first hidden states, as many as are given: [B, states, N]."""
        return torch.stack([probe(states[0], state) for probe, state in zip(self.probe, states, strict=False)], 1)

    def masked(self, embedding: Tensor, keep: Tensor) -> Tensor:
        """z h⁰ + (1 − z) placeholder.

        Args:
            embedding: h⁰, [B, N, D].
            keep: z, [B, N] in [0, 1].
        """
        return torch.lerp(self.placeholder.to(embedding), embedding, keep[..., None].to(embedding))


class GateProbe(nn.Module):
    """From h⁰ and hˡ to a gate logit: a = 15 · tanh(W2 tanh(W1 [h⁰; hˡ] + b1) + b2) + add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W1 = nn.Parameter(torch.zeros(width // 4, 2 * width))
        self.b1 = nn.Parameter(torch.zeros(width // 4))
        self.W2 = nn.Parameter(torch.zeros(1, width // 4))
        self.b2 = nn.Parameter(torch.zeros(1))
        self.add = nn.Parameter(torch.zeros(()))

    def forward(self, embedding: Tensor, state: Tensor) -> Tensor:
        """[B, N, D] twice → [B, N]."""
        hidden = F.linear(torch.cat([embedding, state], -1), self.W1, self.b1).tanh()
        return BOUND * F.linear(hidden, self.W2, self.b2).tanh()[..., 0] + self.add


def keep_probability(logits: Tensor) -> Tensor:
    """P(z ≠ 0) = σ(a + 0.2 ln 5)."""
    return torch.sigmoid(logits + _SHIFT)


def log_keep_probability(logits: Tensor) -> Tensor:
    """ln P(z ≠ 0), exact where the probability underflows."""
    return F.logsigmoid(logits + _SHIFT)


_SHIFT = -TEMPERATURE * math.log(-LOW)


def sample_gates(logits: Tensor, uniform: Tensor) -> Tensor:
    """Gates z in [0, 1] by the reparametrised hard concrete distribution.

    Args:
        uniform: of the shape of the logits, in (0, 1).
    """
    soft = torch.sigmoid((torch.logit(uniform) + logits) / TEMPERATURE)
    return (soft * (1 - LOW) + LOW).clamp(min=0)
