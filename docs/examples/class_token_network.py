"""A class-token network for the images of the demo, whose own network has an attention pooler.

``python docs/examples/class_token_network.py DIR`` writes it into ``DIR``, for ``--model local-dir:DIR``. It starts
from the blocks of the demo network, with a new class token and classifier, and is trained on 16,000 further images.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from pipeline.demo.scenes import CLASSES
from pipeline.demo.synthetic_dataset import TRAINING
from pipeline.demo.train_model import ARCHITECTURE, DROP_PATH, MODEL, OPTIONS, SceneDataset, normalize
from pipeline.explain.load import load_model
from schemas.run import ModelSpec

SEED, SCENES, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 1, 16_000, 64, 5e-4, 50
TOKEN_OPTIONS = OPTIONS | {"class_token": True, "global_pool": "token"}


def train_class_token_network() -> nn.Module:
    """Train the network; each scene is seen once."""
    torch.manual_seed(0)
    model: Any = timm.create_model(ARCHITECTURE, num_classes=len(CLASSES), drop_path_rate=DROP_PATH, **TOKEN_OPTIONS)
    demo = load_model(ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)).model.state_dict()
    shared = {name: tensor for name, tensor in demo.items() if name.startswith(("blocks.", "patch_embed.", "norm."))}
    model.load_state_dict(shared, strict=False)
    with torch.no_grad():
        model.pos_embed[:, 1:] = demo["pos_embed"]
    steps = SCENES // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    loader = DataLoader(SceneDataset(TRAINING, SEED, steps * BATCH_SIZE), BATCH_SIZE, num_workers=1)
    model.train()
    for pixels, labels, _ in track(loader, "train"):
        loss = F.cross_entropy(model(normalize(pixels)), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    trained: nn.Module = model.eval()
    return trained


def main() -> None:
    """Train and save the network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="output folder")
    folder = parser.parse_args().folder
    model = train_class_token_network()
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((MODEL / "config.json").read_text()) | {"model_args": TOKEN_OPTIONS}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")


if __name__ == "__main__":
    main()
