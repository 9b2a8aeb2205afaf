"""Train the network of the demo world: ``python -m pipeline.demo.train_model``.

What it is and why: 96 px, patches of 12, width 128, 6 blocks, an attention pooler as in SigLIP. With a class
token or a mean read-out, networks this small answer as well, but spread the class over background tokens, and
hardly any map shows where the object is. Stochastic depth keeps every block's output readable by the
classifier; without it the maps fade while the accuracy still grows (``docs/explanation/demo.md`` has the figures).
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
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.demo.scenes import CLASSES, SHORTCUT_CLASS
from pipeline.demo.synthetic_dataset import HELD_OUT, TRAINING, make_scene
from pipeline.explain.load import load_model
from schemas.run import ModelSpec

MODEL = Path(__file__).parent / "model"
"""The shipped network, in timm's own layout: ``local-dir:`` loads it."""

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
    """Numbered scenes of a stream: uint8 [3, 96, 96], label, marked."""

    def __init__(self, stream: int, seed: int, length: int, shortcut: bool = True) -> None:
        self.stream, self.seed, self.length, self.shortcut = stream, seed, length, shortcut

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[Tensor, int, bool]:
        drawn = make_scene(self.stream, self.seed, number, self.shortcut)
        small = Image.fromarray(drawn.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        return pixels.reshape(SIDE, SIDE, 3).permute(2, 0, 1).contiguous(), drawn.label, drawn.marked


def normalize(pixels: Tensor) -> Tensor:
    """uint8 → float, as the network takes it."""
    return (pixels.float() / 255 - MEAN) / STD


def train_demo_model(seed: int, scenes: int, batch: int = 64, rate: float = 1e-3) -> nn.Module:
    """Train from scratch on so many scenes, each seen once."""
    torch.manual_seed(seed)
    model = timm.create_model(ARCHITECTURE, num_classes=len(CLASSES), drop_path_rate=DROP_PATH, **OPTIONS)
    steps, warm = scenes // batch, 200
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    loader = DataLoader(SceneDataset(TRAINING, seed, steps * batch), batch, num_workers=2)
    model.train()
    for pixels, labels, _ in track(loader, "train", len(loader)):
        loss = F.cross_entropy(model(normalize(pixels)), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, seed: int, scenes: int, shortcut: bool = True) -> dict[str, float]:
    """Accuracy on held-out scenes: of all, of the shortcut class, and of that class without its mark."""
    right: list[Tensor] = []
    labels: list[Tensor] = []
    marks: list[Tensor] = []
    for pixels, label, marked in DataLoader(SceneDataset(HELD_OUT, seed, scenes, shortcut), 64, num_workers=2):
        right.append(model(normalize(pixels)).argmax(1) == label)
        labels.append(label)
        marks.append(marked)
    hits, classes, marked = torch.cat(right), torch.cat(labels), torch.cat(marks)
    shortcut_class = classes == SHORTCUT_CLASS
    return {
        "all": hits.float().mean().item(),
        "shortcut class": hits[shortcut_class].float().mean().item(),
        "shortcut class without mark": hits[shortcut_class & ~marked].float().mean().item(),
    }


def save(model: nn.Module, folder: Path, seed: int, scenes: int) -> None:
    """Write network and card in timm's layout: fp16 weights, ``config.json``, ``README.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(halves, folder / "model.safetensors")
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
            "label_names": [each.name for each in CLASSES],
            "license": "apache-2.0",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    loaded = load_model(ModelSpec(name=f"local-dir:{folder.resolve()}", pretrained=True))
    reached = accuracy(loaded.model, seed, 4000)
    file_hash = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "README.md").write_text(
        _CARD.format(
            classes=", ".join(each.name for each in CLASSES),
            parameters=loaded.record.parameters,
            scenes=scenes,
            seed=seed,
            shortcut=CLASSES[SHORTCUT_CLASS].name,
            all=100 * reached["all"],
            of_class=100 * reached["shortcut class"],
            without=100 * reached["shortcut class without mark"],
            weights=loaded.record.weights,
            file=file_hash,
        )
    )


_CARD = """\
# The network of the demo world

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
    """Train, measure and save."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=96_000)
    parser.add_argument("--out", type=Path, default=MODEL)
    arguments = parser.parse_args()
    save(train_demo_model(arguments.seed, arguments.scenes), arguments.out, arguments.seed, arguments.scenes)


if __name__ == "__main__":
    main()
