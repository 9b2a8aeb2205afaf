"""Training of Vision DiffMask gates: the fewest patches that keep the prediction."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.gates import Gates, Probe, keep_probability, log_keep_probability, sample
from pipeline.explain.methods.diffmask import hidden_states, masked_logits
from pipeline.explain.trace import Need, record
from pipeline.train.stream import Images

_ALPHA_MOST = 200.0


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; the defaults are those of the public code's command line.

    Attributes:
        tolerance: ε, the divergence that is allowed.
        rate, placeholder_rate: learning rates of the probes and of the placeholder.
        alpha, alpha_rate: first value and step of the multipliers.
        add: first value of the learned shift of a gate logit.
        objective: what must be kept: the predicted ``distribution``, or the probability of the ``class`` alone.
    """

    tolerance: float = 0.1
    rate: float = 2e-5
    placeholder_rate: float = 1e-3
    alpha: float = 20.0
    alpha_rate: float = 0.3
    add: float = 8.0
    objective: Literal["distribution", "class"] = "distribution"


@dataclass(frozen=True)
class StepFigures:
    """What one step came to.

    Attributes:
        depth: k, the last probe that took part.
        divergence: mean KL over the batch.
        kept: mean over images and patches of the probability to be kept, by the probes up to k.
        loss: of gates and placeholder.
        alpha: multiplier of probe k after the step.
    """

    depth: int
    divergence: float
    kept: float
    loss: float
    alpha: float


class DiffMaskTraining:
    """Gates that learn on a frozen network, one batch at a time.

    A step draws a depth k, samples gates z = Π_{l≤k} z_l from the probes 0 … k, runs the network on the masked
    embedding and minimises over gates and placeholder

        α_k (KL(p ‖ p_masked) − ε) + mean over patches of Σ_{l≤k} ln P(z_l ≠ 0),

    while α_k takes a step of gradient *ascent*, clipped to [0, 200]: it rises where KL > ε. (In the public code
    the sign of that step is lost under its pinned trainer.) The mean is over patches only; the public code also
    counts the class token, whose gate has no effect.

    Depth and noise depend on seed, step and rank alone, so training that is resumed goes on as if it had not
    stopped. The network must be ``undisturbed`` around every call.

    Source: De Cao et al. 2020 and Nalmpantis et al., Vision DiffMask, CVPRW 2023 (arXiv 2304.06391).
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, settings: Settings, seed: int = 0) -> None:
        self.model, self.anatomy, self.settings, self.seed = model, anatomy, settings, seed
        parameter = next(model.parameters())
        self.gates = initial(anatomy, settings.add, seed).to(parameter)
        self.alpha = torch.full((anatomy.depth + 2,), settings.alpha, dtype=torch.float64)
        probes = [parameter for name, parameter in self.gates.named_parameters() if name != "placeholder"]
        self.optimizer = torch.optim.Adam(
            [
                {"params": probes, "lr": settings.rate},
                {"params": [self.gates.placeholder], "lr": settings.placeholder_rate},
            ]
        )
        self.step_count = 0

    def step(self, images: Tensor, targets: Tensor | None = None, rank: int = 0) -> StepFigures:
        """One step.

        Args:
            images: [B, 3, H, W], preprocessed.
            targets: int64 [B], the classes to keep; needed for the objective ``class``.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """
        depth = int(_random(self.seed, self.step_count).integers(self.anatomy.depth + 2))  # the same on every rank
        with torch.no_grad():
            trace = record(self.model, self.anatomy, images, Need.TOKENS, ("",) * len(images), 0)
        states = [state.detach() for state in hidden_states(trace)[: depth + 1]]
        logits = self.gates.logits(states)
        noise = _random(self.seed, self.step_count, rank).random(logits.shape)
        uniform = torch.from_numpy(noise).to(logits).clamp(1e-6, 1 - 1e-6)
        masked = masked_logits(self.model, self.gates, trace, sample(logits, uniform).prod(1))
        divergence = self.divergence(trace.logits, masked, targets).mean()
        penalty = log_keep_probability(logits).sum(1).mean()
        loss = float(self.alpha[depth]) * (divergence - self.settings.tolerance) + penalty
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {self.step_count} is {float(loss.detach())}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        reached = float(divergence.detach())
        self.alpha[depth] = ascended(self.alpha[depth], reached, self.settings)
        self.step_count += 1
        kept = keep_probability(logits.detach()).prod(1).mean()
        return StepFigures(depth, reached, float(kept), float(loss.detach()), float(self.alpha[depth]))

    def divergence(self, plain: Tensor, masked: Tensor, targets: Tensor | None) -> Tensor:
        """How far the prediction has moved, for each image: [B], ≥ 0.

        Args:
            plain, masked: logits [B, C] without and with the mask.
        """
        if self.settings.objective == "distribution":
            return F.kl_div(masked.log_softmax(-1), plain.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        assert targets is not None, "the objective is of a class, so it needs one"
        one, other = (_bernoulli(logits, targets) for logits in (plain, masked))
        return (one.exp() * (one - other)).sum(-1)

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to go on."""
        return {
            "gates": self.gates.state_dict(),
            "alpha": self.alpha,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.gates.load_state_dict(state["gates"])
        self.alpha = state["alpha"].clone()
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])


class DiffMaskLearner:
    """``DiffMaskTraining`` as ``fit`` takes it: from pixels to figures.

    Args:
        mean, std: of each channel, for pixels in [0, 1].
    """

    def __init__(self, training: DiffMaskTraining, mean: Sequence[float], std: Sequence[float]) -> None:
        self.training, self.model = training, training.model
        like = training.gates.placeholder.detach()
        self.mean, self.std = (like.new_tensor(values)[:, None, None] for values in (mean, std))

    def step(self, images: Images) -> dict[str, float]:
        targets = None
        if self.training.settings.objective == "class":  # the stream was asked for labels then
            targets = torch.tensor([sample.label for sample in images.samples], device=self.mean.device)
        return asdict(self.training.step(self._normalised(images), targets))

    @torch.no_grad()
    def evaluate(self, batches: Iterator[Images]) -> dict[str, float]:
        """Mean over images: divergence under the mask, share of patches kept, divergence under shuffled masks."""
        training = self.training
        totals = {"kl": 0.0, "kept": 0.0, "kl_shuffled": 0.0}
        count = 0
        for images in batches:
            trace = record(
                self.model, training.anatomy, self._normalised(images), Need.TOKENS, ("",) * len(images.samples), 0
            )
            keep = keep_probability(training.gates.logits(hidden_states(trace))).prod(1)
            targets = trace.logits.argmax(1)
            source = _random(training.seed, count)
            shuffled = torch.stack([row[torch.from_numpy(source.permutation(len(row)))] for row in keep])
            for name, mask in (("kl", keep), ("kl_shuffled", shuffled)):
                masked = masked_logits(self.model, training.gates, trace, mask)
                totals[name] += float(training.divergence(trace.logits, masked, targets).sum())
            totals["kept"] += float(keep.mean(1).sum())
            count += len(keep)
        return {name: total / max(1, count) for name, total in totals.items()}

    def state(self) -> dict[str, Any]:
        return self.training.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.training.restore(state)

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().float() for name, tensor in self.training.gates.state_dict().items()}

    def _normalised(self, images: Images) -> Tensor:
        pixels = torch.from_numpy(images.pixels).to(self.mean.device)
        return (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std


def ascended(alpha: Tensor, divergence: float, settings: Settings) -> Tensor:
    """A multiplier after a step of gradient ascent on α (KL − ε), within [0, 200]."""
    return (alpha + settings.alpha_rate * (divergence - settings.tolerance)).clamp(0, _ALPHA_MOST)


def initial(anatomy: Anatomy, add: float, seed: int) -> Gates:
    """Gates before training: weights as a linear layer begins, every gate all but open."""
    source = torch.Generator().manual_seed(seed)
    gates = Gates(anatomy.width, anatomy.depth)
    with torch.no_grad():
        gates.placeholder.normal_(std=(2 / (1 + anatomy.width)) ** 0.5, generator=source)
        probe: Probe
        for probe in gates.probe:  # type: ignore[assignment]
            for weight, bias in ((probe.W1, probe.b1), (probe.W2, probe.b2)):
                bound = weight.shape[1] ** -0.5
                weight.uniform_(-bound, bound, generator=source)
                bias.uniform_(-bound, bound, generator=source)
            probe.add.fill_(add)
    return gates


def _bernoulli(logits: Tensor, targets: Tensor) -> Tensor:
    """ln p_c and ln (1 − p_c): [B, 2]."""
    probability = logits.log_softmax(-1)
    chosen = probability.gather(1, targets[:, None])
    others = probability.scatter(1, targets[:, None], float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, others], 1)


def _random(*parts: int) -> np.random.Generator:
    return np.random.default_rng([91, *parts])
