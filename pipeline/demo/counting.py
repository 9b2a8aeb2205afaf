"""The counting task: how faithful is a map where the truth about the network is known?

``python -m pipeline.demo.counting`` trains everything and prints the table of ``docs/explanation/counting.md``.

A picture is a grid of 3 × 3 solid cells, one to a patch, each of one of six colours; its class is how many are red. A
network that counts must tell the red cells from the others and nothing else, so a faithful map has one value on the
red cells and another on the rest (the task of Vision DiffMask, section 4; the score is a design of ours).
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
from pipeline.train.image_stream import Images
from pipeline.train.masked_images import MASKED, UNKNOWN, Labelled, Pool
from pipeline.train.patch_mask_training import PatchMaskTraining
from pipeline.train.trainer import Learner
from schemas.artifacts import ArtifactRecord
from schemas.training import DiffMaskSettings, PatchMaskSettings

CELLS, SIDE = 3, 16
RED = 3
"""Index of the colour that is counted."""
COLOURS = np.array([[0, 0, 255], [0, 255, 0], [0, 255, 255], [255, 0, 0], [255, 0, 255], [255, 255, 0]], np.uint8)
MASKS = 50
"""Pictures whose red cells ``pm`` is told: less than 1 % of those the network has seen."""
GATES = DiffMaskSettings(rate=3e-4, warm_up=50, alpha_rate=2.0, add=3.0, tolerance=0.05)
PATCHES = PatchMaskSettings(rate=1e-3, decay=1.0, crop=1.0)


@dataclass(frozen=True)
class Grids:
    """Pictures of the task.

    Attributes:
        pixels: uint8 [B, 3, 48, 48].
        red: bool [B, 9], which cells are.
    """

    pixels: NDArray[np.uint8]
    red: NDArray[np.bool_]

    @property
    def labels(self) -> NDArray[np.int64]:
        """How many cells are red: [B]."""
        return self.red.sum(1)


def draw(count: int, *seed: int) -> Grids:
    """Pictures with 0 to 9 red cells, each number as often."""
    source = np.random.default_rng([95, *seed])
    number = source.integers(0, CELLS**2 + 1, count)
    red = np.argsort(source.random((count, CELLS**2)), 1) < number[:, None]
    others = source.choice([each for each in range(len(COLOURS)) if each != RED], (count, CELLS**2))
    cells = COLOURS[np.where(red, RED, others)].reshape(count, CELLS, CELLS, 3)
    pixels = cells.repeat(SIDE, 1).repeat(SIDE, 2).transpose(0, 3, 1, 2)
    return Grids(np.ascontiguousarray(pixels), red)


def counter(steps: int = 1000, seed: int = 0) -> LoadedModel:
    """A small class-token network that has learnt to count, from pictures each seen once."""
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
    for step in track(range(steps), "network"):
        grids = draw(64, seed, step)
        loss = F.cross_entropy(model(normalised(grids)), torch.from_numpy(grids.labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return describe_loaded("counter", model.eval())


def normalised(grids: Grids) -> Tensor:
    """As the network takes them."""
    return torch.from_numpy(grids.pixels).float() / 127.5 - 1


def gates(
    loaded: LoadedModel, folder: Path, steps: int = 1000, alphas: tuple[float, ...] = (2.0, 20.0, 100.0)
) -> DiffMask:
    """Vision DiffMask gates of the network, the best of several trainings.

    Cells are all or nothing here, so gates may close before they have learnt anything, or stay open, for good. Which
    first α avoids that differs from network to network; the divergence and the share of cells kept on pictures of their
    own tell, where nothing is known of what is red.

    Args:
        alphas: first values of the multipliers, one for each training.
    """
    judged = Images(0, "", (), draw(256, 5).pixels)
    found: list[tuple[float, DiffMaskTraining]] = []
    for alpha in alphas:
        training = DiffMaskTraining(loaded, GATES.model_copy(update={"alpha": alpha}))
        with training.session():
            for step in track(range(steps), f"gates, α from {alpha:.0f}"):
                training.learn(normalised(draw(64, 1, step)))
            found.append((training.shortfall(training.evaluate([judged])), training))
    best = min(found, key=lambda each: each[0])[1]
    return DiffMask.load(_kept(best, "diffmask", loaded, folder))


def patch_masks(loaded: LoadedModel, folder: Path, steps: int = 300) -> PatchMask:
    """The network fine-tuned by the red cells of a few pictures. It learns on a copy."""
    copied = describe_loaded("counter", copy.deepcopy(loaded.model))
    frame = PreprocessConfig.for_model(copied.record, "squash")
    training = PatchMaskTraining(copied, PATCHES, steps, (frame, frame))
    told = Pool([labelled(draw(MASKS, 2), MASKED)])
    with training.session():
        for step in track(range(steps), "patch masks"):
            training.learn(labelled(draw(32, 1, step), UNKNOWN) + told.draw(32, step, (0,)))
    return PatchMask.load(_kept(training, "pm", loaded, folder))


def labelled(grids: Grids, kind: int) -> Labelled:
    """Pictures with their red cells as masks, or without."""
    inside = grids.red.reshape(-1, CELLS, CELLS).repeat(SIDE, 1).repeat(SIDE, 2).astype(np.uint8) * 255
    planes = np.stack([inside, np.zeros_like(inside)], 1)
    return Labelled(grids.pixels, grids.labels, planes, np.full(len(inside), kind))


@dataclass(frozen=True)
class Score:
    """How faithful the maps of a method are.

    Attributes:
        auroc: that a red cell and another are told apart, mean over the pictures that have both; of the map or of
            its negative, whichever does better over all pictures, since a network may count either.
        spread: standard deviation within the two groups over the distance of their means; median over the pictures.
    """

    auroc: float
    spread: float


def score(maps: Tensor, red: NDArray[np.bool_]) -> Score:
    """Of maps [B, 3, 3] and what is red [B, 9]."""
    areas, spreads = [], []
    for values, truth in zip(maps.flatten(1).double().numpy(), red, strict=True):
        inside = int(truth.sum())
        if 0 < inside < len(truth):
            over = rankdata(values)[truth].sum() - inside * (inside + 1) / 2
            areas.append(over / (inside * (len(truth) - inside)))
            gap = abs(values[truth].mean() - values[~truth].mean())
            within = (values[truth].var() * inside + values[~truth].var() * (len(truth) - inside)) / len(truth)
            spreads.append(np.sqrt(within) / gap if gap else np.inf)
    mean = float(np.mean(areas))
    return Score(max(mean, 1 - mean), float(np.median(spreads)))


def scores(loaded: LoadedModel, learned: tuple[Method, ...], count: int = 300) -> dict[str, Score]:
    """Every method on pictures that nothing was trained on."""
    grids = draw(count, 3)
    named = {method.base_name for method in learned}
    chosen = [method() for base, method in registry.items() if base not in named]
    defined = [method for method in chosen if not method.unsupported(loaded.anatomy)]
    targets = torch.from_numpy(grids.labels)[:, None]
    maps = explain(loaded.model, normalised(grids), targets, [*defined, *learned])
    return {name: score(values[:, 0], grids.red) for name, values in maps.items()}


def markdown(found: Sequence[dict[str, Score]]) -> str:
    """The table over several networks, best first: means, and the least AUROC."""
    rows = []
    for name in found[0]:
        each = [scores[name] for scores in found]
        areas, spread = [score.auroc for score in each], float(np.mean([score.spread for score in each]))
        rows.append((float(np.mean(areas)), f"| `{name}` | {np.mean(areas):.3f} | {min(areas):.3f} | {spread:.2f} |"))
    lines = ["| method | AUROC | least of the networks | spread |", "|---|---|---|---|"]
    return "\n".join([*lines, *(line for _, line in sorted(rows, reverse=True))])


def accuracy(model: nn.Module, count: int = 2000) -> float:
    """Share of pictures counted right."""
    grids = draw(count, 4)
    with torch.no_grad():
        return float((model(normalised(grids)).argmax(1).numpy() == grids.labels).mean())


def _kept(training: Learner, method: str, loaded: LoadedModel, folder: Path) -> Path:
    file = folder / f"{method}.safetensors"
    card = ArtifactRecord(
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
    write_artifact(file, training.tensors(), card)
    return file


def main() -> None:
    """Train, explain, score."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--networks", type=int, default=3, help="of other first weights and pictures")
    found = []
    for seed in range(parser.parse_args().networks):
        loaded = counter(seed=seed)
        print(f"network {seed} counts {100 * accuracy(loaded.model):.1f} % of 2,000 pictures right")
        with tempfile.TemporaryDirectory() as folder:
            learned = gates(loaded, Path(folder)), patch_masks(loaded, Path(folder))
            found.append(scores(loaded, learned))
    print(f"\n{markdown(found)}")


if __name__ == "__main__":
    main()
