"""Training of Vision DiffMask gates: the fewest patches that keep the prediction."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn

from pipeline.explain.attribution.diffmask import hidden_states, masked_logits
from pipeline.explain.diffmask_gates import (
    DiffMaskGates,
    GateProbe,
    keep_probability,
    log_keep_probability,
    sample_gates,
)
from pipeline.explain.load import LoadedModel
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.preprocess import Normalize
from pipeline.explain.record import record
from pipeline.explain.trace import Capture, Trace
from pipeline.train.distributed import mean, rank, shared
from pipeline.train.finite import finite_gradients
from pipeline.train.image_stream import Images
from schemas.run import Precision
from schemas.training import DiffMaskSettings

_ALPHA_MOST = 200.0
_DECAY = 0.9
"""Of the moving averages of what each depth comes to."""
_SETTLED = {"agreement": 0.75, "kept": 0.1, "steps": 100}
"""From where on a depth is drawn less often: above, below, and after so many steps of it."""


class DiffMaskTraining:
    """Gates that learn on a frozen network, one batch at a time. A ``Learner``.

    A step draws a depth k, samples gates z = Π_{l≤k} z_l from the probes 0 … k, runs the network on the masked
    embedding and minimises over gates and placeholder

        α_k (KL(p ‖ p_masked) − ε) + mean over patches of Σ_{l≤k} ln P(z_l ≠ 0),

    while α_k takes a step of gradient *ascent*, clipped to [0, 200]: it rises where KL > ε. (In the public code
    the sign of that step is lost under its pinned trainer.) The mean is over patches only; the public code also
    counts the class token, whose gate has no effect. Gates and placeholder learn by Lookahead over Adam, from
    one backward.

    Depth and noise depend on seed, step and rank alone, so training that is resumed goes on as if it had not
    stopped; the depth is the same on every rank, and so are the averaged figures that move α.

    Source: De Cao et al. 2020 and Nalmpantis et al., Vision DiffMask, CVPRW 2023 (arXiv 2304.06391).

    Args:
        loaded: the network. It is not changed.
    """

    def __init__(
        self, loaded: LoadedModel, settings: DiffMaskSettings, seed: int = 0, precision: Precision = "full"
    ) -> None:
        self.model, self.anatomy, self.settings = loaded.model, loaded.anatomy, settings
        self.seed, self.precision = seed, precision
        parameter = next(self.model.parameters())
        self.normalise = Normalize(loaded.record.mean, loaded.record.std, parameter)
        self.gates = initial(self.anatomy.width, self.anatomy.depth, settings.add, seed).to(parameter)
        self._masking = shared(_Masking(self.gates))
        depths = self.anatomy.depth + 2
        self.alpha = torch.full((depths,), settings.alpha, dtype=torch.float64)
        self.average = {
            "kl": torch.zeros(depths, dtype=torch.float64),
            "kept": torch.ones(depths, dtype=torch.float64),
            "agreement": torch.zeros(depths, dtype=torch.float64),
            "steps": torch.zeros(depths, dtype=torch.float64),
        }
        probes = [each for name, each in self.gates.named_parameters() if name != "placeholder"]
        self._rates = (settings.rate, settings.placeholder_rate)
        self._adam = torch.optim.Adam([{"params": probes}, {"params": [self.gates.placeholder]}])
        self._optimizer = Lookahead(self._adam, alpha=0.5, k=6)
        self.step_count = 0

    def session(self) -> AbstractContextManager[None]:
        return preserve_model_state(self.model)

    def step(self, images: Images) -> dict[str, float]:
        """One step; its figures.

        ``depth`` is k; ``kl`` the mean divergence over the batch; ``kept`` the mean over images and patches of
        the probability to be kept, by the probes up to k; ``agreement`` how many predictions stayed; ``alpha`` the
        multiplier of k after the step; ``kl_average`` and ``kept_average`` moving averages, over all depths.
        """
        return self.learn(self.normalise(images.pixels), self._targets(images))

    def learn(self, images: Tensor, targets: Tensor | None = None) -> dict[str, float]:
        """One step on images [B, 3, H, W], preprocessed.

        Args:
            targets: int64 [B], the classes to keep; needed for the objective ``class``.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """
        depth = self.depth()
        loss, figures = self.loss(images, targets, depth, rank())
        return self.apply(loss, depth, mean(figures, images.device))

    def apply(self, loss: Tensor, depth: int, figures: dict[str, float]) -> dict[str, float]:
        """Step down a loss, and its multiplier up; the figures with what that came to."""
        if not np.isfinite(figures["loss"]):
            raise FloatingPointError(f"the loss of step {self.step_count} is {figures['loss']}")
        self._adam.zero_grad()
        loss.backward()
        finite_gradients(self.gates.parameters(), self.step_count)
        warm = min(1.0, (self.step_count + 1) / max(1, self.settings.warm_up))
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = warm * rate
        self._optimizer.step()
        self.alpha[depth] = ascended(self.alpha[depth], figures["kl"], self.settings)
        self._follow(depth, figures)
        self.step_count += 1
        seen = self.average["steps"] > 0
        averages = {f"{name}_average": float(self.average[name][seen].mean()) for name in ("kl", "kept")}
        return {"depth": depth, **figures, "alpha": float(self.alpha[depth]), **averages}

    def depth(self) -> int:
        """k of the next step: the same on every rank."""
        weights = torch.ones_like(self.alpha)
        if self.settings.depths == "weighted":
            average = self.average
            settled = (average["agreement"] > _SETTLED["agreement"]) & (average["kept"] < _SETTLED["kept"])
            weights[settled & (average["steps"] > _SETTLED["steps"])] = 0.1
        chances = (weights / weights.sum()).numpy()
        return int(_random(_DEPTH, self.seed, self.step_count).choice(len(chances), p=chances))

    def loss(self, images: Tensor, targets: Tensor | None, depth: int, rank: int) -> tuple[Tensor, dict[str, float]]:
        """What gates and placeholder minimise, with its graph, and the figures of it.

        Args:
            rank: whose noise is drawn.
        """
        trace = self._trace(images)
        states = [state.detach().to(images.dtype) for state in hidden_states(trace)[: depth + 1]]
        shape = len(images), depth + 1, self.anatomy.patches
        noise = torch.from_numpy(_random(_NOISE, self.seed, self.step_count, rank).random(shape))
        masked, logits = self._masking(trace, states, noise.to(images).clamp(1e-6, 1 - 1e-6))
        divergence = self.divergence(trace.logits, masked, targets).mean()
        penalty = log_keep_probability(logits).sum(1).mean()
        loss = float(self.alpha[depth]) * (divergence - self.settings.tolerance) + penalty
        agreement = (masked.argmax(1) == trace.logits.argmax(1)).float().mean()
        return loss, {
            "kl": float(divergence.detach()),
            "kept": float(keep_probability(logits.detach()).prod(1).mean()),
            "agreement": float(agreement),
            "loss": float(loss.detach()),
        }

    def divergence(self, plain: Tensor, masked: Tensor, targets: Tensor | None) -> Tensor:
        """How far the prediction has moved, for each image: [B], ≥ 0.

        Args:
            plain, masked: logits [B, C] without and with the mask.
        """
        plain, masked = (logits if logits.dtype == torch.float64 else logits.float() for logits in (plain, masked))
        if self.settings.objective == "distribution":
            return F.kl_div(masked.log_softmax(-1), plain.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        assert targets is not None, "the objective is of a class, so it needs one"
        one, other = (_bernoulli(logits, targets) for logits in (plain, masked))
        return (one.exp() * (one - other)).sum(-1)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Images]) -> dict[str, float]:
        """Means over images, under the mask that ``diffmask`` gives.

        ``kl`` is the divergence, ``kept`` the share of patches kept, ``agreement`` how many predictions stayed,
        ``kl_shuffled`` the divergence where each mask's patches change places at random.
        """
        totals = {"kl": 0.0, "kept": 0.0, "agreement": 0.0, "kl_shuffled": 0.0}
        count = 0
        for images in batches:
            trace = self._trace(self.normalise(images.pixels))
            states = [state.to(trace.images.dtype) for state in hidden_states(trace)]
            keep = keep_probability(self.gates.logits(states)).prod(1)
            targets, before = self._targets(images), trace.logits.argmax(1)
            source = _random(_SHUFFLE, self.seed, count)
            shuffled = torch.stack([row[torch.from_numpy(source.permutation(len(row)))] for row in keep])
            for name, mask in (("kl", keep), ("kl_shuffled", shuffled)):
                masked = masked_logits(self.model, self.gates, trace, mask)
                totals[name] += float(self.divergence(trace.logits, masked, targets).sum())
                if name == "kl":
                    totals["agreement"] += float((masked.argmax(1) == before).sum())
            totals["kept"] += float(keep.mean(1).sum())
            count += len(keep)
        return {name: total / count for name, total in totals.items()} if count else {}

    def shortfall(self, figures: Mapping[str, float]) -> float:
        """Share of patches kept, and by how many times ε the divergence is beyond it."""
        excess = figures["kl"] - self.settings.tolerance
        return figures["kept"] + max(0.0, excess) / self.settings.tolerance

    def state(self) -> dict[str, Any]:
        return {
            "gates": self.gates.state_dict(),
            "alpha": self.alpha,
            "average": self.average,
            "optimizer": self._optimizer.state_dict(),
            "step": self.step_count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.gates.load_state_dict(state["gates"])
        self.alpha = state["alpha"].clone()
        self.average = {name: values.clone() for name, values in state["average"].items()}
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().float().clone() for name, tensor in self.gates.state_dict().items()}

    def _targets(self, images: Images) -> Tensor | None:
        """The labels, where these are what must be kept; the stream was asked for them then."""
        if self.settings.objective == "distribution":
            return None
        return torch.tensor([each.label for each in images.samples], device=self.normalise.device)

    def _trace(self, images: Tensor) -> Trace:
        keys = ("",) * len(images)
        with torch.no_grad():
            return record(self.model, self.anatomy, images, Capture.TOKENS, keys, 0, self.precision)

    def _follow(self, depth: int, figures: Mapping[str, float]) -> None:
        """Move the averages of a depth; the first figures are taken as they are."""
        decay = _DECAY if self.average["steps"][depth] else 0.0
        for name in ("kl", "kept", "agreement"):
            self.average[name][depth] = decay * self.average[name][depth] + (1 - decay) * figures[name]
        self.average["steps"][depth] += 1


class _Masking(nn.Module):
    """All that is learnt, in one forward, as several processes need it to agree on gradients."""

    def __init__(self, gates: DiffMaskGates) -> None:
        super().__init__()
        self.gates = gates

    def forward(self, trace: Trace, states: list[Tensor], uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] under sampled gates, and the logits of the gates [B, states, N]."""
        logits = self.gates.logits(states)
        return masked_logits(trace.model, self.gates, trace, sample_gates(logits, uniform).prod(1)), logits


def ascended(alpha: Tensor, divergence: float, settings: DiffMaskSettings) -> Tensor:
    """A multiplier after a step of gradient ascent on α (KL − ε), within [0, 200]."""
    return (alpha + settings.alpha_rate * (divergence - settings.tolerance)).clamp(0, _ALPHA_MOST)


def initial(width: int, depth: int, add: float, seed: int) -> DiffMaskGates:
    """Gates before training: weights as a linear layer begins, every gate all but open."""
    source = torch.Generator().manual_seed(seed)
    gates = DiffMaskGates(width, depth)
    with torch.no_grad():
        gates.placeholder.normal_(std=width**-0.5, generator=source)  # Xavier's, of [1, 1, D]
        probe: GateProbe
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


_DEPTH, _NOISE, _SHUFFLE = 0, 1, 2


def _random(purpose: int, *parts: int) -> np.random.Generator:
    return np.random.default_rng([91, purpose, *parts])
