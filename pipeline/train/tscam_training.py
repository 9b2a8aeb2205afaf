"""Training of TS-CAM: a convolution gives a map for each class, and learns to classify images by their means."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from pipeline.explain.load import LoadedModel
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.preprocess import Normalize
from pipeline.explain.readout import label_loss
from pipeline.explain.semantic_maps import SemanticReadout
from pipeline.train.distributed import all_reduce_mean, rank, wrap_ddp
from pipeline.train.image_stream import TrainingBatch
from pipeline.train.masked_images import CropWindows
from pipeline.train.trainer import clip_gradients, warmup_cosine
from schemas.run import Precision
from schemas.training import TSCAMSettings


class TSCAMTraining:
    """Training of the semantic maps of TS-CAM. Implements ``TrainableExplainer``.

    With S [C, h, w] the maps of an image, it minimizes the cross-entropy of the label under the logits
    s_c = mean over patches of S_c; with a sigmoid head file, by which each class is present or not, the sum of the
    binary cross-entropies of all classes. The network's own classifier is not used and not trained.

    AdamW, gradients clipped to norm 1, random crops and mirroring. The network stays in evaluation mode: randomness is
    in order and crops only.

    Source: Gao et al., TS-CAM, ICCV 2021, section 3.3. Differences from the public code: the learning rate falls as a
    cosine, not in steps, and there is no stochastic depth.

    Args:
        loaded: model; its weights are trained unless the settings freeze them.
        settings: hyper-parameters.
        steps: number of steps of the whole training, for the decay of the learning rate.
        seed: seed of initial weights and crops.
        precision: compute precision of the model.
    """

    def __init__(
        self, loaded: LoadedModel, settings: TSCAMSettings, steps: int, seed: int = 0, precision: Precision = "full"
    ) -> None:
        self.model, self.anatomy, self.settings = loaded.model, loaded.transformer, settings
        self.steps, self.seed, self.precision = steps, seed, precision
        parameter = next(self.model.parameters())
        self.normalize = Normalize(loaded.record.mean, loaded.record.std, parameter)
        self.is_frozen = settings.backbone == "frozen"
        self.readout = SemanticReadout(self.model, self.anatomy, self.is_frozen).to(parameter)
        _initialize(self.readout.semantic, seed)
        self._ddp_readout: nn.Module = self.readout
        self._trained: nn.Module = self.readout.semantic if self.is_frozen else self.readout
        model: Any = self.model
        exempt = {f"model.{name}" for name in model.no_weight_decay()}
        groups = param_groups_weight_decay(self._trained, settings.weight_decay, no_weight_decay_list=exempt)
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.step_count = 0

    @contextmanager
    def session(self) -> Iterator[None]:
        """Make the trained parameters trainable."""
        with preserve_model_state(self.model):
            self.model.requires_grad_(not self.is_frozen)
            self._ddp_readout = wrap_ddp(self.readout)
            yield

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """Train on one batch and return its metrics: ``loss``, and ``accuracy`` of the batch."""
        return self.train_step(*self.crop(batch, rank()))

    def train_step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Train on preprocessed images and return metrics, as ``step``.

        Args:
            images: float [B, 3, H, W], normalized.
            labels: int64 [B].

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """
        loss, metrics = self.compute_loss(images, labels)
        return self.update(loss, all_reduce_mean(metrics, images.device))

    def crop(self, batch: TrainingBatch, rank: int) -> tuple[Tensor, Tensor]:
        """Return crops of the images of a batch, float [B, 3, H, W], normalized; and their labels, int64 [B].

        Args:
            batch: images.
            rank: rank that seeds the crops.
        """
        labels = _labels(batch)
        rng = np.random.default_rng([95, self.seed, self.step_count, rank])
        windows = CropWindows.sample(len(labels), self.settings.min_crop_area, rng)
        pixels = torch.from_numpy(batch.pixels).to(self.normalize.device).float()
        return self.normalize(windows.crop(pixels, self.anatomy.input_size)), labels.to(self.normalize.device)

    def compute_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss with its graph, and its metrics.

        Args:
            images: see ``train_step``.
            labels: see ``train_step``.
        """
        _, maps = self._ddp_readout(images, self.precision)
        logits = maps.mean((2, 3))
        loss = label_loss(self.model, logits, labels).mean()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return loss, {"loss": float(loss.detach()), "accuracy": float(accuracy)}

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
        clip_gradients(self._trained.parameters(), self.step_count, max_norm=1.0)
        factor = warmup_cosine(self.step_count, self.settings.warmup_steps, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        self._optimizer.step()
        self.step_count += 1
        return metrics

    @torch.no_grad()
    def evaluate(self, batches: Iterable[TrainingBatch]) -> dict[str, float]:
        """Return ``accuracy`` and ``ce`` of the images by TS-CAM.

        ``network_accuracy`` is that of the network's own classifier on the same backbone: before training, of the
        network that was given.
        """
        totals = {"accuracy": 0.0, "ce": 0.0, "network_accuracy": 0.0}
        count = 0
        for batch in batches:
            images, labels = self.normalize(batch.pixels), _labels(batch).to(self.normalize.device)
            network_logits, maps = self.readout(images, self.precision)
            logits = maps.mean((2, 3))
            totals["accuracy"] += float((logits.argmax(1) == labels).sum())
            totals["network_accuracy"] += float((network_logits.argmax(1) == labels).sum())
            totals["ce"] += float(label_loss(self.model, logits, labels).sum())
            count += len(labels)
        return {name: total / count for name, total in totals.items()} if count else {}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """Return the cross-entropy of the images."""
        return metrics["ce"]

    def state_dict(self) -> dict[str, Any]:
        return {
            "trained": self._trained.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step_count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trained.load_state_dict(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step_count = int(state["step"])

    def tensors(self) -> dict[str, Tensor]:
        """Return ``semantic.weight`` and ``semantic.bias``; of a fine-tuned network also its own, after ``model.``."""
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().clone()
            for name, tensor in self.readout.state_dict().items()
            if name.startswith("semantic.") or not self.is_frozen
        }

    def warnings(self, metrics: Mapping[str, float]) -> list[str]:
        """Warn of maps that classify worse than the network that was given."""
        accuracy, before = metrics["accuracy"], metrics["network_accuracy_before"]
        if accuracy >= before:
            return []
        return [
            f"TS-CAM classifies held-out images worse than the network before: accuracy {accuracy:.4f}, {before:.4f}; "
            "train for more steps"
        ]


def _initialize(convolution: nn.Conv2d, seed: int) -> None:
    """Set weights from a normal distribution of standard deviation 0.02, as timm starts a classifier; biases to 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(convolution.weight.shape)
    nn.init.trunc_normal_(weight, std=0.02, generator=generator)
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(weight)
        convolution.bias.zero_()


def _labels(batch: TrainingBatch) -> Tensor:
    """Return the labels, int64 [B]."""
    return torch.tensor([sample.label for sample in batch.samples])
