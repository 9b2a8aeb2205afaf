"""Fine-tuning for patch-level mask prediction: the model's own classifier is trained to predict at each patch."""

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
from pipeline.explain.network_trace import autocast
from pipeline.explain.preprocess import Normalize
from pipeline.explain.readout import PatchReadout, label_loss, patch_log_odds
from pipeline.read import PreprocessConfig
from pipeline.train.distributed import all_reduce_mean, rank, wrap_ddp
from pipeline.train.image_stream import TrainingBatch
from pipeline.train.mask_sources import MaskSource
from pipeline.train.masked_images import BOXED, MASKED, UNKNOWN, CropWindows, MaskedImagePool, MaskedImages
from pipeline.train.trainer import clip_gradients, warmup_cosine
from pipeline.utils.calibration import CalibrationError
from schemas.errors import RunFailedError, UsageError
from schemas.run import Precision
from schemas.training import PatchMaskSettings

_NEGATIVE_CANDIDATES = 50
"""Number of likeliest absent classes that negatives are sampled from."""


class PatchMaskTraining:
    """Fine-tuning of a model to give the probability of its classes at each patch. Implements ``TrainableExplainer``.

    With ȳ the logits of the image, Q [N, C] those of its patches by the same classifier and M = σ(Q), it minimizes

        CE(ȳ, y) + λ [ mean_i BCE(M_{i,y}, m_i) + μ mean_{i, c absent} BCE(M_{i,c}, 0) ],

    the first term over all images, the second over those with a mask. With a sigmoid head file the first is the sum of
    the binary cross-entropies of all classes; with texts M is the head's own probability (``patch_log_odds`` is Q), and
    texts, scale and bias stay as they are. m_i is the fraction of patch i that the object
    covers, after the same crop and mirroring as the image; patches of which more than half is ignored do not count.
    If only a box is known, patches outside of it are 0, and the maximum over each row and column inside must be that
    of the box. No parameter is added: names and shapes are those of the model. AdamW, gradients clipped to norm 1.

    Source: a design, ``pm_design_v1``, after the abstract of Kang et al., PRL 187, 2025; the full text is not public.
    The box term is the projection of BoxInst (Tian et al., CVPR 2021, eq. 2).

    Args:
        loaded: model, which is trained.
        settings: hyper-parameters.
        steps: number of steps of the whole training, for the decay of the learning rate.
        frames: preprocessing of the training images, which may be larger than the model's input, and of held-out ones.
        masks: masks of the stream's images; or
        pool: images with masks, of which each step takes as many as of the stream.
        held_out_masks: masks of held-out images, for metrics only.
        seed: seed of crops and negatives.
        precision: compute precision of the model.
        half: store the weights in float16.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: PatchMaskSettings,
        steps: int,
        frames: tuple[PreprocessConfig, PreprocessConfig],
        *,
        masks: MaskSource | None = None,
        pool: MaskedImagePool | None = None,
        held_out_masks: MaskSource | None = None,
        seed: int = 0,
        precision: Precision = "full",
        half: bool = False,
    ) -> None:
        self.model, self.anatomy, self.settings = loaded.model, loaded.transformer, settings
        self.steps, self.seed, self.precision, self.half = steps, seed, precision, half
        self.frame, self.held_out_frame = frames
        self.masks, self.pool, self.held_out_masks = masks, pool, held_out_masks
        self.normalize = Normalize(loaded.record.mean, loaded.record.std, next(self.model.parameters()))
        self.readout = PatchReadout(self.model, self.anatomy)
        self._ddp_readout: nn.Module = self.readout
        groups = param_groups_layer_decay(
            self.model, settings.weight_decay, _no_weight_decay(self.model), layer_decay=settings.layer_decay
        )
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.step_count = 0

    @contextmanager
    def session(self) -> Iterator[None]:
        """Make the parameters trainable. The model stays in evaluation mode: randomness is in order and crops only."""
        with preserve_model_state(self.model):
            self.model.requires_grad_(True)
            self._ddp_readout = wrap_ddp(self.readout)
            yield

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """Train on one batch and return its metrics.

        ``loss`` is the total, ``ce`` the cross-entropy of the images, ``patch`` the patch loss; ``accuracy`` is that of
        the batch.
        """
        images = MaskedImages.from_batch(batch, self.masks, self.frame)
        if self.pool is not None and len(self.pool):  # all of them may belong to another worker
            images = images + self.pool.sample(len(images), self.step_count, (self.seed, rank()))
        return self.train_step(images)

    def train_step(self, images: MaskedImages) -> dict[str, float]:
        """Train on images with masks and return metrics, as ``step``.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """
        loss, metrics = self.compute_loss(images, rank())
        return self.update(loss, all_reduce_mean(metrics, self.normalize.device))

    def update(self, loss: Tensor, metrics: dict[str, float]) -> dict[str, float]:
        """Take a descent step on the loss.

        Args:
            loss: loss with its graph.
            metrics: metrics of the loss, averaged over ranks; they are returned.
        """
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(f"the loss of step {self.step_count} is {metrics['loss']}")
        self._optimizer.zero_grad()
        loss.backward()
        clip_gradients(self.model.parameters(), self.step_count, max_norm=1.0)
        factor = warmup_cosine(self.step_count, self.settings.warmup_steps, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * group.get("lr_scale", 1.0) * factor
        self._optimizer.step()
        self.step_count += 1
        return metrics

    def compute_loss(self, batch: MaskedImages, rank: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss with its graph, and its metrics.

        Args:
            batch: images with masks.
            rank: rank that seeds crops and negatives.
        """
        rng = np.random.default_rng([93, self.seed, self.step_count, rank])
        windows = CropWindows.sample(len(batch), self.settings.min_crop_area, rng)
        device = self.normalize.device
        pixels = torch.from_numpy(batch.pixels).to(device).float()
        images = self.normalize(windows.crop(pixels, self.anatomy.input_size))
        planes = torch.from_numpy(batch.planes).to(device).float()
        covered, ignored = windows.patch_coverage(planes, self.anatomy)
        labels = torch.from_numpy(batch.labels).to(device)
        with autocast(images, self.precision):
            logits, patches = self._ddp_readout(images)
        logits, patches = (values if values.dtype == torch.float64 else values.float() for values in (logits, patches))
        entropy = label_loss(self.model, logits, labels).mean()
        negatives = sample_absent_classes(logits.detach(), labels, self.settings.num_negatives, rng)
        patch = patch_loss(
            patch_log_odds(self.model, patches, labels[:, None])[:, 0],
            patch_log_odds(self.model, patches, negatives),
            covered,
            ignored <= 0.5,
            torch.from_numpy(batch.mask_kinds).to(device),
            self.settings.negative_loss_weight,
            self.anatomy.grid,
        )
        loss = entropy + self.settings.patch_loss_weight * patch
        accuracy = (logits.argmax(1) == labels).float().mean()
        return loss, {
            "loss": float(loss.detach()),
            "ce": float(entropy.detach()),
            "patch": float(patch.detach()),
            "accuracy": float(accuracy),
        }

    @torch.no_grad()
    def evaluate(self, batches: Iterable[TrainingBatch]) -> dict[str, float]:
        """Return ``accuracy`` and ``ce`` of the images; with masks also ``brier`` and ``ece`` of their patches."""
        correct = entropy = count = 0.0
        calibration = CalibrationError()
        for batch in batches:
            images = MaskedImages.from_batch(batch, self.held_out_masks, self.held_out_frame)
            labels = torch.from_numpy(images.labels).to(self.normalize.device)
            pixels = self.normalize(images.pixels)
            with autocast(pixels, self.precision):
                logits, patches = self.readout(pixels)
            if not logits.isfinite().all():
                return {"accuracy": math.nan, "ce": math.nan}
            correct += float((logits.argmax(1) == labels).sum())
            entropy += float(label_loss(self.model, logits.float(), labels).sum())
            count += len(images)
            planes = torch.from_numpy(images.planes).float()
            covered, ignored = CropWindows.full(len(images)).patch_coverage(planes, self.anatomy)
            valid = (ignored <= 0.5) & torch.from_numpy(images.mask_kinds == MASKED)[:, None]
            probabilities = patch_log_odds(self.model, patches.float(), labels[:, None])[:, 0].sigmoid().cpu()
            calibration.add(probabilities[valid].numpy(), covered[valid].numpy())
        if not count:
            return {}
        if self.held_out_masks is not None and not calibration.count:
            raise UsageError("--measure: none of its masks is of a held-out image; check that the keys are the same")
        metrics = {"accuracy": correct / count, "ce": entropy / count}
        return metrics | ({"brier": calibration.brier, "ece": calibration.ece} if calibration.count else {})

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """Return the cross-entropy of the images: masks of held-out images must not select weights."""
        return metrics["ce"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the model's own tensors under their own names, which timm can load."""
        dtype = torch.float16 if self.half else torch.float32
        tensors = {
            name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).clone()
            for name, tensor in self.model.state_dict().items()
        }
        if self.half and not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise RunFailedError("the weights are too large for float16; leave out --save-float16")
        return tensors

    def warnings(self, metrics: Mapping[str, float]) -> list[str]:
        """Warn of a network that predicts images, or patches, worse than before its training."""
        names = {"ce": "images: cross-entropy", "brier": "patches: Brier score"}
        return [
            f"the network predicts worse than before on held-out {text} {metrics[name]:.4f}, before {before:.4f}"
            for name, text in names.items()
            if (before := metrics.get(f"{name}_before")) is not None and metrics[name] > before
        ]


def patch_loss(
    label_logits: Tensor,
    absent_logits: Tensor,
    covered: Tensor,
    valid: Tensor,
    mask_kinds: Tensor,
    negative_weight: float,
    grid: tuple[int, int],
) -> Tensor:
    """Return the mean patch loss over the images that have a mask; 0 if none has.

    Args:
        label_logits: Q of the label y, [B, N].
        absent_logits: Q of absent classes, [B, n, N].
        covered: m, [B, N] in [0, 1].
        valid: bool [B, N], patches that are not ignored.
        mask_kinds: int64 [B], see ``MaskedImages``.
        negative_weight: μ.
        grid: rows and columns of the N patches.
    """
    entropy = F.binary_cross_entropy_with_logits(label_logits, covered, reduction="none")
    loss = torch.where(mask_kinds == BOXED, _box_loss(label_logits, covered, valid, grid), _masked_mean(entropy, valid))
    if absent_logits.shape[1]:
        others = F.softplus(absent_logits).mean((1, 2))  # BCE against 0
        loss = loss + negative_weight * others
    has_mask = mask_kinds != UNKNOWN
    return (loss * has_mask).sum() / has_mask.sum().clamp(min=1)


def _no_weight_decay(model: Any) -> Collection[str]:
    """Return the parameters that timm exempts from weight decay."""
    return model.no_weight_decay()


def _box_loss(logits: Tensor, covered: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return BCE outside of the boxes + BCE of the largest logit of each row and column: [B]."""
    outside = _masked_mean(F.softplus(logits), valid & (covered == 0))
    planes = [values.unflatten(1, grid) for values in (logits.masked_fill(~valid, -1e4), covered * valid)]
    sides = [
        F.binary_cross_entropy_with_logits(planes[0].amax(axis), planes[1].amax(axis), reduction="none").mean(1)
        for axis in (1, 2)
    ]
    return outside + (sides[0] + sides[1]) / 2


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over valid patches: [B]; 0 if there is none."""
    return (values * valid).sum(1) / valid.sum(1).clamp(min=1)


def sample_absent_classes(logits: Tensor, labels: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Sample classes other than the label from the 50 likeliest: int64 [B, ≤ count].

    Args:
        logits: [B, C].
        labels: int64 [B].
        count: number of classes of each image.
        rng: source of randomness.
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    candidates = min(_NEGATIVE_CANDIDATES, logits.shape[1] - 1)
    likeliest = others.topk(candidates, 1).indices
    order = np.argsort(rng.random((len(labels), candidates)), 1)[:, : min(count, candidates)]
    return likeliest.gather(1, torch.from_numpy(order).to(labels.device))
