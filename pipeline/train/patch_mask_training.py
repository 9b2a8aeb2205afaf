"""Training of patch-level mask prediction: the network's own classifier learns to answer at each patch."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from pipeline.explain.load import LoadedModel
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.preprocess import Normalize
from pipeline.explain.readout import PatchReadout
from pipeline.explain.trace import autocast, select_classes
from pipeline.read import PreprocessConfig
from pipeline.train.calibration import Calibration
from pipeline.train.distributed import mean, rank, shared
from pipeline.train.finite import finite_gradients
from pipeline.train.image_stream import Images
from pipeline.train.mask_sources import Masks
from pipeline.train.masked_images import BOXED, MASKED, UNKNOWN, Cut, Labelled, Pool
from schemas.errors import RunFailedError, UsageError
from schemas.run import Precision
from schemas.training import PatchMaskSettings

_LIKELIEST = 50
"""Absent classes that negatives are drawn from."""


class PatchMaskTraining:
    """A network that is fine-tuned to give the probability of its classes at each patch. A ``Learner``.

    With ȳ the logits of the image, Q [N, C] those of its patches by the same classifier and M = σ(Q), it minimises

        CE(ȳ, y) + λ [ mean_i BCE(M_{i,y}, m_i) + μ mean_{i, c absent} BCE(M_{i,c}, 0) ],

    the first term over all images, the second over those that something is known of. m_i is the share of patch i
    that the object covers, after the same crop and mirror as the picture; patches that are ignored by more than half
    do not count. Where only a box is known, patches outside of it are 0, and of those inside the largest of each row
    and column must be that of the box. No parameter is added: names and shapes are those of the network.
    AdamW, gradients scaled down to a norm of 1.

    Source: a design, ``pm_design_v1``, after the abstract of Kang et al., PRL 187, 2025; the full text is not public.
    The box term is the projection of BoxInst (Tian et al., CVPR 2021, eq. 2).

    Args:
        loaded: the network, which learns.
        steps: of the whole training, for the fall of the learning rate.
        frame: of the training pictures; may be larger than the network's input.
        masks: of the pictures of the stream; or
        pool: pictures with masks, as many in a step as the stream gives.
        measured: masks of held-out pictures, for figures alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: PatchMaskSettings,
        steps: int,
        frames: tuple[PreprocessConfig, PreprocessConfig],
        *,
        masks: Masks | None = None,
        pool: Pool | None = None,
        measured: Masks | None = None,
        seed: int = 0,
        precision: Precision = "full",
        half: bool = False,
    ) -> None:
        self.model, self.anatomy, self.settings = loaded.model, loaded.anatomy, settings
        self.steps, self.seed, self.precision, self.half = steps, seed, precision, half
        self.frame, self.held_out_frame = frames
        self.masks, self.pool, self.measured = masks, pool, measured
        self.normalise = Normalize(loaded.record.mean, loaded.record.std, next(self.model.parameters()))
        self.readout = PatchReadout(self.model, self.anatomy)
        self._network: nn.Module = self.readout
        groups = param_groups_layer_decay(
            self.model, settings.weight_decay, _undecayed(self.model), layer_decay=settings.decay
        )
        self._optimizer = torch.optim.AdamW(groups, lr=settings.rate)
        self.step_count = 0

    @contextmanager
    def session(self) -> Iterator[None]:
        """As it predicts, but that its parameters learn: no dropout, so chance is in order and crops alone."""
        with preserve_model_state(self.model):
            self.model.requires_grad_(True)
            self._network = shared(self.readout)
            yield

    def step(self, images: Images) -> dict[str, float]:
        """One step; its figures.

        ``loss`` is all of it, ``ce`` the cross-entropy of the images, ``patch`` the patch loss; ``accuracy`` is of
        the batch.
        """
        batch = Labelled.of(images.shard, images.samples, images.pixels, self.masks, self.frame)
        if self.pool is not None and len(self.pool):  # another worker may have all of them
            batch = batch + self.pool.draw(len(batch), self.step_count, (self.seed, rank()))
        return self.learn(batch)

    def learn(self, batch: Labelled) -> dict[str, float]:
        """One step on pictures with what is known of them.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """
        loss, figures = self.loss(batch, rank())
        return self.apply(loss, mean(figures, self.normalise.device))

    def apply(self, loss: Tensor, figures: dict[str, float]) -> dict[str, float]:
        """Step down a loss."""
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(f"the loss of step {self.step_count} is {figures['loss']}")
        self._optimizer.zero_grad()
        loss.backward()
        finite_gradients(self.model.parameters(), self.step_count, most=1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate * group.get("lr_scale", 1.0) * self._schedule()
        self._optimizer.step()
        self.step_count += 1
        return figures

    def loss(self, batch: Labelled, rank: int) -> tuple[Tensor, dict[str, float]]:
        """What is minimised, with its graph, and the figures of it.

        Args:
            rank: whose crops and negatives are drawn.
        """
        source = np.random.default_rng([93, self.seed, self.step_count, rank])
        cut = Cut.drawn(len(batch), self.settings.crop, source)
        device = self.normalise.device
        images = self.normalise(cut.images(torch.from_numpy(batch.pixels).to(device).float(), self.anatomy.input_size))
        covered, ignored = cut.coverage(torch.from_numpy(batch.planes).to(device).float(), self.anatomy)
        labels = torch.from_numpy(batch.labels).to(device)
        with autocast(images, self.precision):
            logits, patches = self._network(images)
        logits, patches = (each if each.dtype == torch.float64 else each.float() for each in (logits, patches))
        entropy = F.cross_entropy(logits, labels)
        negatives = absent(logits.detach(), labels, self.settings.negatives, source)
        known = torch.from_numpy(batch.known).to(device)
        patch = patch_loss(
            patches, labels, covered, ignored <= 0.5, known, negatives, self.settings.negative_weight, self.anatomy.grid
        )
        loss = entropy + self.settings.weight * patch
        right = (logits.argmax(1) == labels).float().mean()
        return loss, {
            "loss": float(loss.detach()),
            "ce": float(entropy.detach()),
            "patch": float(patch.detach()),
            "accuracy": float(right),
        }

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Images]) -> dict[str, float]:
        """``accuracy`` and ``ce`` of the images; with masks also ``brier`` and ``ece`` of their patches."""
        right = entropy = count = 0.0
        calibration = Calibration()
        for images in batches:
            batch = Labelled.of(images.shard, images.samples, images.pixels, self.measured, self.held_out_frame)
            labels = torch.from_numpy(batch.labels).to(self.normalise.device)
            pixels = self.normalise(batch.pixels)
            with autocast(pixels, self.precision):
                logits, patches = self.readout(pixels)
            if not logits.isfinite().all():
                return {"accuracy": math.nan, "ce": math.nan}
            right += float((logits.argmax(1) == labels).sum())
            entropy += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            count += len(batch)
            covered, ignored = Cut.whole(len(batch)).coverage(torch.from_numpy(batch.planes).float(), self.anatomy)
            counts = (ignored <= 0.5) & torch.from_numpy(batch.known == MASKED)[:, None]
            probabilities = select_classes(patches.float().sigmoid(), labels[:, None])[:, 0].cpu()
            calibration.add(probabilities[counts].numpy(), covered[counts].numpy())
        if not count:
            return {}
        if self.measured is not None and not calibration.count:
            raise UsageError("--measure: none of its masks is of a held-out picture; are the keys the same?")
        figures = {"accuracy": right / count, "ce": entropy / count}
        return figures | ({"brier": calibration.brier, "ece": calibration.ece} if calibration.count else {})

    def shortfall(self, figures: Mapping[str, float]) -> float:
        """Cross-entropy of the images: masks of held-out pictures must not choose."""
        return figures["ce"]

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step_count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])

    def tensors(self) -> dict[str, Tensor]:
        """The network's own tensors under their own names: timm loads them."""
        dtype = torch.float16 if self.half else torch.float32
        tensors = {
            name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).clone()
            for name, tensor in self.model.state_dict().items()
        }
        if self.half and not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise RunFailedError("the weights are too large for float16; leave out --half")
        return tensors

    def _schedule(self) -> float:
        """Share of the learning rate: up in the warm-up, then down as a cosine."""
        rise = min(1.0, (self.step_count + 1) / max(1, self.settings.warm_up))
        return rise * 0.5 * (1 + math.cos(math.pi * self.step_count / self.steps))


def patch_loss(
    logits: Tensor,
    labels: Tensor,
    covered: Tensor,
    counts: Tensor,
    known: Tensor,
    negatives: Tensor,
    negative_weight: float,
    grid: tuple[int, int],
) -> Tensor:
    """Mean over the images that something is known of; 0 where that is none.

    Args:
        logits: Q, [B, N, C].
        labels: y, int64 [B].
        covered: m, [B, N] in [0, 1].
        counts: bool [B, N], patches that are not ignored.
        known: int64 [B], see ``Labelled``.
        negatives: int64 [B, n], classes that are absent.
        negative_weight: μ.
        grid: rows and columns of N.
    """
    chosen = select_classes(logits, labels[:, None])[:, 0]
    each = F.binary_cross_entropy_with_logits(chosen, covered, reduction="none")
    masked = _mean(each, counts)
    loss = torch.where(known == BOXED, _boxed(chosen, covered, counts, grid), masked)
    if negatives.shape[1]:
        others = F.softplus(select_classes(logits, negatives)).mean((1, 2))  # BCE against 0
        loss = loss + negative_weight * others
    there = known != UNKNOWN
    return (loss * there).sum() / there.sum().clamp(min=1)


def _undecayed(model: Any) -> Collection[str]:
    """Names of the parameters that timm keeps weight decay from."""
    return model.no_weight_decay()


def _boxed(chosen: Tensor, covered: Tensor, counts: Tensor, grid: tuple[int, int]) -> Tensor:
    """BCE outside of the boxes, and of the largest logit of each row and column: [B]."""
    outside = _mean(F.softplus(chosen), counts & (covered == 0))
    planes = [values.unflatten(1, grid) for values in (chosen.masked_fill(~counts, -1e4), covered * counts)]
    sides = [
        F.binary_cross_entropy_with_logits(planes[0].amax(axis), planes[1].amax(axis), reduction="none").mean(1)
        for axis in (1, 2)
    ]
    return outside + (sides[0] + sides[1]) / 2


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean over the patches that count: [B]; 0 where none does."""
    return (values * counts).sum(1) / counts.sum(1).clamp(min=1)


def absent(logits: Tensor, labels: Tensor, count: int, source: np.random.Generator) -> Tensor:
    """Classes other than the label, drawn from the 50 likeliest: int64 [B, ≤ count]."""
    others = logits.scatter(1, labels[:, None], float("-inf"))
    room = min(_LIKELIEST, logits.shape[1] - 1)
    likeliest = others.topk(room, 1).indices
    order = np.argsort(source.random((len(labels), room)), 1)[:, : min(count, room)]
    return likeliest.gather(1, torch.from_numpy(order).to(labels.device))
