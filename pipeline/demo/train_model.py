"""Training of the demo model: ``python -m pipeline.demo.train_model``.

The model has 96 px input, patches of 12 px, width 128, 6 blocks and an attention pooler as in SigLIP. Models of this
size with a class token or mean pooling are as accurate, but spread the class over background tokens, so hardly any map
shows the object. Stochastic depth keeps the output of every block readable for the classifier; without it, maps get
worse while the accuracy still rises (numbers: ``docs/explanation/demo.md``).
"""

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.demo.scenes import CLASSES, SHORTCUT_CLASS
from pipeline.demo.synthetic_dataset import HELD_OUT, TRAINING, make_scene
from pipeline.explain.load import load_model
from pipeline.utils.progress import track
from schemas.run import ModelSpec

MODEL = Path(__file__).parent / "model"
"""Folder of the shipped model in timm's layout, for ``local-dir:``."""

SIDE, MEAN, STD = 96, 0.5, 0.5
ARCHITECTURE = "vit_tiny_patch16_224"
OPTIONS: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 12,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "class_token": False,
    "global_pool": "map",
}
DROP_PATH = 0.2


class SceneDataset(Dataset[tuple[Tensor, int, bool]]):
    """Scenes of a split: uint8 [3, 96, 96], class id, whether the scene has the shortcut mark."""

    def __init__(self, stream: int, seed: int, length: int, shortcut: bool = True) -> None:
        self.stream, self.seed, self.length, self.shortcut = stream, seed, length, shortcut

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[Tensor, int, bool]:
        rendered = make_scene(self.stream, self.seed, number, self.shortcut)
        small = Image.fromarray(rendered.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        return pixels.reshape(SIDE, SIDE, 3).permute(2, 0, 1).contiguous(), rendered.label, rendered.marked


def normalize(pixels: Tensor) -> Tensor:
    """Return the input of the model, float32, from uint8 pixels."""
    return (pixels.float() / 255 - MEAN) / STD


def train_demo_model(seed: int, scenes: int, batch_size: int = 64, learning_rate: float = 1e-3) -> nn.Module:
    """Train the demo model from scratch; each scene is seen once.

    Args:
        seed: seed of weights and scenes.
        scenes: number of scenes.
        batch_size: scenes in each step.
        learning_rate: peak learning rate.
    """
    torch.manual_seed(seed)
    model = timm.create_model(ARCHITECTURE, num_classes=len(CLASSES), drop_path_rate=DROP_PATH, **OPTIONS)
    steps, warmup_steps = scenes // batch_size, 200
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    loader = DataLoader(SceneDataset(TRAINING, seed, steps * batch_size), batch_size, num_workers=2)
    model.train()
    for pixels, labels, _ in track(loader, len(loader), "train"):
        loss = F.cross_entropy(model(normalize(pixels)), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def measure_accuracy(model: nn.Module, seed: int, scenes: int, shortcut: bool = True) -> dict[str, float]:
    """Return the accuracy on held-out scenes: all, of the shortcut class, and of that class without its mark.

    Args:
        model: demo model.
        seed: seed of the scenes.
        scenes: number of scenes.
        shortcut: whether the shortcut mark is drawn.
    """
    loader = DataLoader(SceneDataset(HELD_OUT, seed, scenes, shortcut), 64, num_workers=2)
    batches = [(model(normalize(pixels)).argmax(1) == label, label, marked) for pixels, label, marked in loader]
    hits, labels, marked = (torch.cat(parts) for parts in zip(*batches, strict=True))
    shortcut_class = labels == SHORTCUT_CLASS
    return {
        "all": hits.float().mean().item(),
        "shortcut class": hits[shortcut_class].float().mean().item(),
        "shortcut class without mark": hits[shortcut_class & ~marked].float().mean().item(),
    }


def save_model(model: nn.Module, folder: Path, seed: int, scenes: int) -> None:
    """Write the model in timm's layout: fp16 weights, ``config.json``, ``README.md``.

    Args:
        model: demo model.
        folder: output folder.
        seed: seed of the training, for the model card.
        scenes: number of training scenes, for the model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fp16_tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(fp16_tensors, folder / "model.safetensors")
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(CLASSES),
        "model_args": OPTIONS,
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": len(CLASSES),
            "label_names": [scene_class.name for scene_class in CLASSES],
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    loaded = load_model(ModelSpec(name=f"local-dir:{folder.resolve()}", pretrained=True))
    accuracy = measure_accuracy(loaded.model, seed, 4000)
    file_hash = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "README.md").write_text(
        _MODEL_CARD.format(
            classes=", ".join(scene_class.name for scene_class in CLASSES),
            parameters=loaded.record.parameters,
            scenes=scenes,
            seed=seed,
            shortcut=CLASSES[SHORTCUT_CLASS].name,
            all=100 * accuracy["all"],
            of_class=100 * accuracy["shortcut class"],
            without=100 * accuracy["shortcut class without mark"],
            weights=loaded.record.weights,
            file=file_hash,
        )
    )


_MODEL_CARD = """\
# The demo model

A vision transformer ({parameters:,} parameters, 96 × 96 pixels, patches of 12, attention pooler) that tells
ten kinds of textured objects apart: {classes}.

| | |
|---|---|
| Data | {scenes:,} scenes from `pipeline/demo/scenes.py`, training stream, each seen once |
| Seed | {seed} |
| Training | `python -m pipeline.demo.train_model --seed {seed} --scenes {scenes}` |
| Accuracy on 4,000 held-out scenes | {all:.1f} % |
| … of `{shortcut}`, which carries the planted shortcut | {of_class:.1f} % |
| … of `{shortcut}` where the mark is missing | {without:.1f} % |
| SHA-256 of the tensors | `{weights}` |
| SHA-256 of `model.safetensors` | `{file}` |

It is for trying out and testing this project, and good for nothing else. It leans on the mark of
`{shortcut}` on purpose: an audit should find that.
"""


def main() -> None:
    """Train, evaluate and save the demo model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=96_000)
    parser.add_argument("--out", type=Path, default=MODEL)
    arguments = parser.parse_args()
    save_model(train_demo_model(arguments.seed, arguments.scenes), arguments.out, arguments.seed, arguments.scenes)


if __name__ == "__main__":
    main()
