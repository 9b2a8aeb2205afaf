"""Counting task: faithfulness of maps where the evidence of the model is known.

``python docs/examples/counting_task.py`` trains all models and prints the table of ``docs/explanation/counting.md``.

An image is a grid of 3 × 3 solid cells, one per patch, each of one of six colors; its class is the number of red cells.
A model that counts must tell the red cells from the others and nothing else, so a faithful map has one value on the red
cells and another on the rest (the task of Vision DiffMask, section 4; the score is our own design).
"""

import argparse
import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import rankdata
from torch import Tensor, nn

from pipeline.explain import DiffMask, PatchMask, explain
from pipeline.explain import methods as registry
from pipeline.explain.artifacts import write_artifact
from pipeline.explain.load import LoadedModel, describe_loaded
from pipeline.explain.method import Method
from pipeline.read import PreprocessConfig
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.image_stream import TrainingBatch
from pipeline.train.masked_images import MASKED, UNKNOWN, MaskedImagePool, MaskedImages
from pipeline.train.patch_mask_training import PatchMaskTraining
from pipeline.train.trainer import TrainableExplainer
from schemas.artifacts import ArtifactRecord
from schemas.training import DiffMaskSettings, PatchMaskSettings

CELLS, SIDE = 3, 16
"""Cells along each side of an image, and pixels along each side of a cell."""
RED = 3
"""Index of the color that is counted."""
COLORS = np.array([[0, 0, 255], [0, 255, 0], [0, 255, 255], [255, 0, 0], [255, 0, 255], [255, 255, 0]], np.uint8)
NUM_MASKS = 50
"""Images whose red cells ``pm`` is given: less than 1 % of those that the model was trained on."""
DIFFMASK_SETTINGS = DiffMaskSettings(
    learning_rate=3e-4, warmup_steps=50, alpha_learning_rate=2.0, gate_bias=3.0, tolerance=0.05
)
PATCH_MASK_SETTINGS = PatchMaskSettings(learning_rate=1e-3, layer_decay=1.0, min_crop_area=1.0)


@dataclass(frozen=True)
class CellImages:
    """Images of the task.

    Attributes:
        pixels: uint8 [B, 3, 48, 48].
        red: bool [B, 9], True for red cells.
    """

    pixels: NDArray[np.uint8]
    red: NDArray[np.bool_]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Number of red cells, int64 [B]."""
        return self.red.sum(1)


def sample_cell_images(count: int, *seed: int) -> CellImages:
    """Sample images with 0 to 9 red cells, each number with the same probability.

    Args:
        count: number of images.
        seed: seed of the images.
    """
    rng = np.random.default_rng([95, *seed])
    numbers = rng.integers(0, CELLS**2 + 1, count)
    red = np.argsort(rng.random((count, CELLS**2)), 1) < numbers[:, None]
    others = rng.choice([color for color in range(len(COLORS)) if color != RED], (count, CELLS**2))
    cells = COLORS[np.where(red, RED, others)].reshape(count, CELLS, CELLS, 3)
    pixels = cells.repeat(SIDE, 1).repeat(SIDE, 2).transpose(0, 3, 1, 2)
    return CellImages(np.ascontiguousarray(pixels), red)


def train_counter(steps: int = 1000, seed: int = 0) -> LoadedModel:
    """Train a small class-token model to count, on images that are each seen once.

    Args:
        steps: number of steps of 64 images.
        seed: seed of weights and images.
    """
    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=CELLS * SIDE,
        patch_size=SIDE,
        embed_dim=64,
        depth=3,
        num_heads=4,
        num_classes=10,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for step in track(range(steps), "model"):
        images = sample_cell_images(64, seed, step)
        loss = F.cross_entropy(model(normalize_cells(images)), torch.from_numpy(images.labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return describe_loaded("counter", model.eval())


def normalize_cells(images: CellImages) -> Tensor:
    """Return the input of the model, float32 [B, 3, 48, 48] in [−1, 1]."""
    return torch.from_numpy(images.pixels).float() / 127.5 - 1


def train_diffmask(
    loaded: LoadedModel, folder: Path, steps: int = 1000, alphas: tuple[float, ...] = (2.0, 20.0, 100.0)
) -> DiffMask:
    """Train Vision DiffMask gates of the model several times, and return the best.

    Cells are all or nothing here, so gates may close before anything is learned, or stay open forever. The initial α
    that avoids this differs between models. Divergence and fraction of kept cells on separate images select it,
    without knowledge of the red cells.

    Args:
        loaded: model.
        folder: folder for the artifact.
        steps: number of steps of each training.
        alphas: initial multipliers, one for each training.
    """
    held_out = TrainingBatch(0, "", (), sample_cell_images(256, 5).pixels)
    trainings: list[tuple[float, DiffMaskTraining]] = []
    for alpha in alphas:
        training = DiffMaskTraining(loaded, DIFFMASK_SETTINGS.model_copy(update={"alpha": alpha}))
        with training.session():
            for step in track(range(steps), f"gates, α from {alpha:.0f}"):
                training.train_step(normalize_cells(sample_cell_images(64, 1, step)))
            trainings.append((training.selection_metric(training.evaluate([held_out])), training))
    best = min(trainings, key=lambda training: training[0])[1]
    return DiffMask.load(_write_artifact(best, "diffmask", loaded, folder))


def train_patch_mask(loaded: LoadedModel, folder: Path, steps: int = 300) -> PatchMask:
    """Fine-tune a copy of the model with the red cells of a few images.

    Args:
        loaded: model.
        folder: folder for the artifact.
        steps: number of steps.
    """
    copied = describe_loaded("counter", copy.deepcopy(loaded.model))
    frame = PreprocessConfig.for_model(copied.record, "squash")
    training = PatchMaskTraining(copied, PATCH_MASK_SETTINGS, steps, (frame, frame))
    pool = MaskedImagePool([to_masked_images(sample_cell_images(NUM_MASKS, 2), MASKED)])
    with training.session():
        for step in track(range(steps), "patch masks"):
            unmasked = to_masked_images(sample_cell_images(32, 1, step), UNKNOWN)
            training.train_step(unmasked + pool.sample(32, step, (0,)))
    return PatchMask.load(_write_artifact(training, "pm", loaded, folder))


def to_masked_images(images: CellImages, mask_kind: int) -> MaskedImages:
    """Return images with their red cells as masks.

    Args:
        images: images.
        mask_kind: ``MASKED``, or ``UNKNOWN`` to ignore the masks in training.
    """
    masks = images.red.reshape(-1, CELLS, CELLS).repeat(SIDE, 1).repeat(SIDE, 2).astype(np.uint8) * 255
    planes = np.stack([masks, np.zeros_like(masks)], 1)
    return MaskedImages(images.pixels, images.labels, planes, np.full(len(masks), mask_kind))


@dataclass(frozen=True)
class CountingScore:
    """Faithfulness of the maps of a method.

    Attributes:
        auroc: area under the ROC curve of red against other cells, mean over the images that have both; of the map or
            of its negative, whichever is better over all images, since a model may count either.
        spread: standard deviation within the two groups over the distance of their means; median over the images.
    """

    auroc: float
    spread: float


def score_maps(maps: Tensor, red: NDArray[np.bool_]) -> CountingScore:
    """Score the maps of a method.

    Args:
        maps: float [B, 3, 3].
        red: bool [B, 9], red cells.
    """
    aurocs, spreads = [], []
    for values, is_red in zip(maps.flatten(1).double().numpy(), red, strict=True):
        count = int(is_red.sum())
        if 0 < count < len(is_red):
            rank_sum = rankdata(values)[is_red].sum() - count * (count + 1) / 2
            aurocs.append(rank_sum / (count * (len(is_red) - count)))
            gap = abs(values[is_red].mean() - values[~is_red].mean())
            within = (values[is_red].var() * count + values[~is_red].var() * (len(is_red) - count)) / len(is_red)
            spreads.append(np.sqrt(within) / gap if gap else np.inf)
    mean = float(np.mean(aurocs))
    return CountingScore(max(mean, 1 - mean), float(np.median(spreads)))


def score_methods(loaded: LoadedModel, learned: tuple[Method, ...], count: int = 300) -> dict[str, CountingScore]:
    """Score every method on images that nothing was trained on.

    Args:
        loaded: model.
        learned: learned methods, with weights.
        count: number of images.
    """
    images = sample_cell_images(count, 3)
    learned_names = {method.base_name for method in learned}
    methods = [method() for name, method in registry.items() if name not in learned_names]
    supported = [method for method in methods if not method.refusal(loaded.anatomy)]
    class_ids = torch.from_numpy(images.labels)[:, None]
    maps = explain(loaded.model, normalize_cells(images), class_ids, [*supported, *learned])
    return {name: score_maps(values[:, 0], images.red) for name, values in maps.items()}


def to_markdown(scores: Sequence[dict[str, CountingScore]]) -> str:
    """Return the table over several models, best first: means, and the lowest AUROC."""
    rows = []
    for name in scores[0]:
        aurocs = [of_model[name].auroc for of_model in scores]
        spread = float(np.mean([of_model[name].spread for of_model in scores]))
        mean = float(np.mean(aurocs))
        rows.append((mean, f"| `{name}` | {mean:.3f} | {min(aurocs):.3f} | {spread:.2f} |"))
    lines = ["| method | AUROC | lowest of the models | spread |", "|---|---|---|---|"]
    return "\n".join([*lines, *(line for _, line in sorted(rows, reverse=True))])


def counting_accuracy(model: nn.Module, count: int = 2000) -> float:
    """Return the fraction of correctly counted images.

    Args:
        model: counter.
        count: number of images.
    """
    images = sample_cell_images(count, 4)
    with torch.no_grad():
        return float((model(normalize_cells(images)).argmax(1).numpy() == images.labels).mean())


def _write_artifact(training: TrainableExplainer, method: str, loaded: LoadedModel, folder: Path) -> Path:
    file = folder / f"{method}.safetensors"
    record = ArtifactRecord(
        method=method,  # type: ignore[arg-type]
        provenance="the counting task",
        model="counter",
        weights=loaded.record.weights,
        settings={},
        shards=(),
        steps=0,
        batch_size=0,
        seed=0,
        metrics={},
    )
    write_artifact(file, training.tensors(), record)
    return file


def main() -> None:
    """Train the models, explain them and score all methods."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--models", type=int, default=3, help="number of models, each with its own seed")
    scores = []
    for seed in range(parser.parse_args().models):
        loaded = train_counter(seed=seed)
        print(f"model {seed} counts {100 * counting_accuracy(loaded.model):.1f} % of 2,000 images correctly")
        with tempfile.TemporaryDirectory() as folder:
            learned = train_diffmask(loaded, Path(folder)), train_patch_mask(loaded, Path(folder))
            scores.append(score_methods(loaded, learned))
    print(f"\n{to_markdown(scores)}")


if __name__ == "__main__":
    main()
