"""Training of Vision DiffMask gates, which keep the fewest patches that preserve the prediction."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn

from pipeline.explain.attribution.diffmask import hidden_states, masked_logits
from pipeline.explain.capture import Capture
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
from pipeline.explain.readout import class_log_odds
from pipeline.explain.trace import Trace, record_forward
from pipeline.train.distributed import all_reduce_mean, rank, wrap_ddp
from pipeline.train.image_stream import TrainingBatch
from pipeline.train.trainer import clip_gradients
from schemas.run import Precision
from schemas.training import DiffMaskSettings

_MAX_ALPHA = 200.0
_DECAY = 0.9
"""Decay of the moving averages of each depth."""
_CONVERGED = {"agreement": 0.75, "kept": 0.1, "steps": 100}
"""A depth is sampled less often above this agreement, below this fraction of kept patches, after this many steps."""


class DiffMaskTraining:
    """Training of gates for a frozen model. Implements ``TrainableExplainer``.

    A step samples a depth k, samples gates z = Π_{l≤k} z_l from the probes 0 … k, runs the model on the masked
    embedding and minimizes over gates and placeholder

        α_k (KL(p ‖ p_masked) − ε) + mean over patches of Σ_{l≤k} ln P(z_l ≠ 0),

    where the divergence is that of the distribution over the classes; with a sigmoid head file, by which each class is
    present or not, the sum of the divergences of all classes. Meanwhile α_k takes a step of gradient *ascent*, clipped
    to [0, 200]: it rises where KL > ε. (In the public code the sign of that step is lost under its pinned trainer.) The
    mean is over patches only; the public code also counts the class token, whose gate has no effect. Gates and
    placeholder are trained by Lookahead over Adam, from one backward pass.

    Depth and noise depend on seed, step and rank alone, so a resumed training equals an uninterrupted one. The depth
    is the same on every rank, and so are the averaged metrics that update α.

    Source: De Cao et al. 2020 and Nalmpantis et al., Vision DiffMask, CVPRW 2023 (arXiv 2304.06391).

    Args:
        loaded: model, which is not changed.
        settings: hyper-parameters.
        seed: seed of initial weights, depths and noise.
        precision: compute precision of the model.
    """

    def __init__(
        self, loaded: LoadedModel, settings: DiffMaskSettings, seed: int = 0, precision: Precision = "full"
    ) -> None:
        self.model, self.anatomy, self.settings = loaded.model, loaded.transformer, settings
        self.seed, self.precision = seed, precision
        parameter = next(self.model.parameters())
        self.normalize = Normalize(loaded.record.mean, loaded.record.std, parameter)
        self.gates = initialize_gates(self.anatomy.width, self.anatomy.depth, settings.gate_bias, seed).to(parameter)
        self._masked_forward = wrap_ddp(_MaskedForward(self.gates))
        depths = self.anatomy.depth + 2
        self.alpha = torch.full((depths,), settings.alpha, dtype=torch.float64)
        self.average = {
            "kl": torch.zeros(depths, dtype=torch.float64),
            "kept": torch.ones(depths, dtype=torch.float64),
            "agreement": torch.zeros(depths, dtype=torch.float64),
            "steps": torch.zeros(depths, dtype=torch.float64),
        }
        probes = [parameter for name, parameter in self.gates.named_parameters() if name != "placeholder"]
        self._rates = (settings.learning_rate, settings.placeholder_learning_rate)
        self._adam = torch.optim.Adam([{"params": probes}, {"params": [self.gates.placeholder]}])
        self._optimizer = Lookahead(self._adam, alpha=0.5, k=6)
        self.step_count = 0

    def session(self) -> AbstractContextManager[None]:
        return preserve_model_state(self.model)

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """Train on one batch and return its metrics.

        ``depth`` is k; ``kl`` the mean divergence over the batch; ``kept`` the mean over images and patches of
        the probability to be kept, by the probes up to k; ``agreement`` the fraction of unchanged predictions;
        ``alpha`` the multiplier of k after the step; ``kl_average`` and ``kept_average`` moving averages, over all
        depths.
        """
        return self.train_step(self.normalize(batch.pixels), self._class_ids(batch))

    def train_step(self, images: Tensor, class_ids: Tensor | None = None) -> dict[str, float]:
        """Train on preprocessed images and return metrics, as ``step``.

        Args:
            images: float [B, 3, H, W], normalized.
            class_ids: int64 [B], classes to keep; needed for the objective ``class``.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """
        depth = self.sample_depth()
        loss, metrics = self.compute_loss(images, class_ids, depth, rank())
        return self.update(loss, depth, all_reduce_mean(metrics, images.device))

    def update(self, loss: Tensor, depth: int, metrics: dict[str, float]) -> dict[str, float]:
        """Take a descent step on the loss and an ascent step of its multiplier; return all metrics of the step.

        Args:
            loss: loss with its graph.
            depth: k.
            metrics: metrics of the loss, averaged over ranks.
        """
        if not np.isfinite(metrics["loss"]):
            raise FloatingPointError(f"the loss of step {self.step_count} is {metrics['loss']}")
        self._adam.zero_grad()
        loss.backward()
        clip_gradients(self.gates.parameters(), self.step_count)
        warmup = min(1.0, (self.step_count + 1) / max(1, self.settings.warmup_steps))
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = warmup * rate
        self._optimizer.step()
        self.alpha[depth] = ascend_multiplier(self.alpha[depth], metrics["kl"], self.settings)
        self._update_averages(depth, metrics)
        self.step_count += 1
        trained = self.average["steps"] > 0
        averages = {f"{name}_average": float(self.average[name][trained].mean()) for name in ("kl", "kept")}
        return {"depth": depth, **metrics, "alpha": float(self.alpha[depth]), **averages}

    def sample_depth(self) -> int:
        """Return k of the next step, the same on every rank."""
        weights = torch.ones_like(self.alpha)
        if self.settings.depth_sampling == "weighted":
            average = self.average
            converged = (average["agreement"] > _CONVERGED["agreement"]) & (average["kept"] < _CONVERGED["kept"])
            weights[converged & (average["steps"] > _CONVERGED["steps"])] = 0.1
        probabilities = (weights / weights.sum()).numpy()
        return int(_rng(_DEPTH, self.seed, self.step_count).choice(len(probabilities), p=probabilities))

    def compute_loss(
        self, images: Tensor, class_ids: Tensor | None, depth: int, rank: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss with its graph, and its metrics.

        Args:
            images: float [B, 3, H, W], normalized.
            class_ids: int64 [B], see ``train_step``.
            depth: k.
            rank: rank that seeds the noise.
        """
        trace = self._trace(images)
        states = [state.detach().to(images.dtype) for state in hidden_states(trace)[: depth + 1]]
        shape = len(images), depth + 1, self.anatomy.patches
        noise = torch.from_numpy(_rng(_NOISE, self.seed, self.step_count, rank).random(shape))
        masked, logits = self._masked_forward(trace, states, noise.to(images).clamp(1e-6, 1 - 1e-6))
        divergence = self.compute_divergence(trace.logits, masked, class_ids).mean()
        penalty = log_keep_probability(logits).sum(1).mean()
        loss = float(self.alpha[depth]) * (divergence - self.settings.tolerance) + penalty
        agreement = (masked.argmax(1) == trace.logits.argmax(1)).float().mean()
        return loss, {
            "kl": float(divergence.detach()),
            "kept": float(keep_probability(logits.detach()).prod(1).mean()),
            "agreement": float(agreement),
            "loss": float(loss.detach()),
        }

    def compute_divergence(self, plain: Tensor, masked: Tensor, class_ids: Tensor | None) -> Tensor:
        """Return the divergence of the predictions: [B], ≥ 0.

        Args:
            plain: logits [B, C] without mask.
            masked: logits [B, C] with mask.
            class_ids: int64 [B], see ``train_step``.
        """
        plain, masked = (logits if logits.dtype == torch.float64 else logits.float() for logits in (plain, masked))
        if self.settings.objective == "class":
            assert class_ids is not None, "the objective class needs class ids"
            odds = [class_log_odds(self.model, logits, class_ids[:, None]) for logits in (plain, masked)]
            return _binary_divergence(*odds).sum(-1)
        if self.anatomy.class_activation == "sigmoid":
            return _binary_divergence(plain, masked).sum(-1)
        return F.kl_div(masked.log_softmax(-1), plain.log_softmax(-1), log_target=True, reduction="none").sum(-1)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[TrainingBatch]) -> dict[str, float]:
        """Return means over images, under the mask of the method ``diffmask``.

        ``kl`` is the divergence, ``kept`` the fraction of kept patches, ``agreement`` the fraction of unchanged
        predictions, ``kl_shuffled`` the divergence when the patches of each mask are randomly permuted.
        """
        totals = {"kl": 0.0, "kept": 0.0, "agreement": 0.0, "kl_shuffled": 0.0}
        count = 0
        for batch in batches:
            trace = self._trace(self.normalize(batch.pixels))
            states = [state.to(trace.images.dtype) for state in hidden_states(trace)]
            keep = keep_probability(self.gates.logits(states)).prod(1)
            class_ids, predicted = self._class_ids(batch), trace.logits.argmax(1)
            rng = _rng(_SHUFFLE, self.seed, count)
            shuffled = torch.stack([row[torch.from_numpy(rng.permutation(len(row)))] for row in keep])
            for name, mask in (("kl", keep), ("kl_shuffled", shuffled)):
                masked = masked_logits(self.model, self.gates, trace, mask)
                totals[name] += float(self.compute_divergence(trace.logits, masked, class_ids).sum())
                if name == "kl":
                    totals["agreement"] += float((masked.argmax(1) == predicted).sum())
            totals["kept"] += float(keep.mean(1).sum())
            count += len(keep)
        return {name: total / count for name, total in totals.items()} if count else {}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """Return the fraction of kept patches + the excess of the divergence over ε, in units of ε."""
        excess = metrics["kl"] - self.settings.tolerance
        return metrics["kept"] + max(0.0, excess) / self.settings.tolerance

    def state_dict(self) -> dict[str, Any]:
        return {
            "gates": self.gates.state_dict(),
            "alpha": self.alpha,
            "average": self.average,
            "optimizer": self._optimizer.state_dict(),
            "step": self.step_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gates.load_state_dict(state["gates"])
        self.alpha = state["alpha"].clone()
        self.average = {name: values.clone() for name, values in state["average"].items()}
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().float().clone() for name, tensor in self.gates.state_dict().items()}

    def warnings(self, metrics: Mapping[str, float]) -> list[str]:
        """Warn of gates whose masks change the prediction more than shuffled ones, or more than allowed."""
        kl, shuffled, tolerance = metrics["kl"], metrics["kl_shuffled"], self.settings.tolerance
        said = []
        if kl >= shuffled:
            fault = "the masks preserve the prediction no better than shuffled"
            said.append(f"{fault}: KL {kl:.3f}, {shuffled:.3f} shuffled")
        if kl > tolerance:
            said.append(f"the masks change the prediction more than allowed: KL {kl:.3f}, tolerance {tolerance:g}")
        return said

    def _class_ids(self, batch: TrainingBatch) -> Tensor | None:
        """Return the labels if the objective is to keep their probability."""
        if self.settings.objective == "distribution":
            return None
        return torch.tensor([sample.label for sample in batch.samples], device=self.normalize.device)

    def _trace(self, images: Tensor) -> Trace:
        keys = ("",) * len(images)
        with torch.no_grad():
            return record_forward(self.model, self.anatomy, images, Capture.TOKENS, keys, 0, self.precision)

    def _update_averages(self, depth: int, metrics: Mapping[str, float]) -> None:
        decay = _DECAY if self.average["steps"][depth] else 0.0  # the first metrics are taken as they are
        for name in ("kl", "kept", "agreement"):
            self.average[name][depth] = decay * self.average[name][depth] + (1 - decay) * metrics[name]
        self.average["steps"][depth] += 1


class _MaskedForward(nn.Module):
    """Forward with all trained parameters, which DistributedDataParallel needs as one module."""

    def __init__(self, gates: DiffMaskGates) -> None:
        super().__init__()
        self.gates = gates

    def forward(self, trace: Trace, states: list[Tensor], uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] under sampled gates, and the logits of the gates [B, states, N]."""
        logits = self.gates.logits(states)
        return masked_logits(trace.model, self.gates, trace, sample_gates(logits, uniform).prod(1)), logits


def ascend_multiplier(alpha: Tensor, divergence: float, settings: DiffMaskSettings) -> Tensor:
    """Return the multiplier after a step of gradient ascent on α (KL − ε), within [0, 200].

    Args:
        alpha: α.
        divergence: KL.
        settings: hyper-parameters, with ε and the step size.
    """
    return (alpha + settings.alpha_learning_rate * (divergence - settings.tolerance)).clamp(0, _MAX_ALPHA)


def initialize_gates(width: int, depth: int, add: float, seed: int) -> DiffMaskGates:
    """Return gates before training: weights as ``nn.Linear`` starts, every gate almost open.

    Args:
        width: width of the tokens, D.
        depth: number of blocks of the model.
        add: shift of the gate logits.
        seed: seed of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    gates = DiffMaskGates(width, depth)
    with torch.no_grad():
        gates.placeholder.normal_(std=width**-0.5, generator=generator)  # Xavier, for [1, 1, D]
        probe: GateProbe
        for probe in gates.probe:  # type: ignore[assignment]
            for weight, bias in ((probe.W1, probe.b1), (probe.W2, probe.b2)):
                bound = weight.shape[1] ** -0.5
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)
            probe.add.fill_(add)
    return gates


def _binary_divergence(plain: Tensor, masked: Tensor) -> Tensor:
    """Return KL(p ‖ q) of events with the probabilities p = σ(plain) and q = σ(masked)."""
    present, absent = (F.logsigmoid(sign * plain) - F.logsigmoid(sign * masked) for sign in (1, -1))
    return plain.sigmoid() * present + (-plain).sigmoid() * absent


_DEPTH, _NOISE, _SHUFFLE = 0, 1, 2
"""Purposes of random numbers."""


def _rng(purpose: int, *seeds: int) -> np.random.Generator:
    return np.random.default_rng([91, purpose, *seeds])
