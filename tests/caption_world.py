"""A small CLIP with a head of texts, and shards with captions as img2dataset writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from small_towers import EMBEDDING, fake_tower, spread
from support import jpeg, write_tar

from pipeline.head.prompts import Prompts
from pipeline.head.text_head import text_head
from pipeline.head.text_tower import TextTower
from schemas.run import ModelSpec, RunSpec
from schemas.text_tower import TextTowerSpec

SIZES = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
ARCHITECTURE = "vit_base_patch16_clip_quickgelu_224"
CLASSES = ("a cat", "a dog", "the mat")
TOWER = TextTowerSpec(library="hugging_face", name="/towers/fake")
CAPTIONS: dict[str, str | None] = {
    "000000000": "a dog on the mat",
    "000000001": "two cats\n",
    "000000002": None,
    "000000003": "  \n",
    "000000004": "one two three four five six seven eight nine",
    "000000005": "ein Hund im Café",
}


def clip(folder: Path, tower: TextTower) -> ModelSpec:
    """Write a random network and a head of three classes."""
    model = spread(timm.create_model(ARCHITECTURE, num_classes=EMBEDDING, **SIZES))
    folder.mkdir(parents=True, exist_ok=True)
    statistics = {name: list(getattr(tower.image_side, name) or [0.5] * 3) for name in ("mean", "std")}
    images = {"input_size": [3, 48, 48], "interpolation": "bicubic", "crop_pct": 1.0, **statistics}
    config = {"architecture": ARCHITECTURE, "num_classes": EMBEDDING, "model_args": SIZES}
    config |= {"pretrained_cfg": images | {"num_classes": EMBEDDING}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    text_head(tower, Prompts.of_names(CLASSES, ())).save(folder / "head.safetensors")
    return ModelSpec(name=f"local-dir:{folder}", pretrained=True, head=str(folder / "head.safetensors"))


def caption_shard(path: Path, captions: Mapping[str, str | None] = CAPTIONS, **fields: Any) -> Path:
    """Write jpg, txt and json of each sample, in the order of img2dataset."""
    members = []
    for number, (key, caption) in enumerate(captions.items()):
        members.append((f"{key}.jpg", jpeg(number, (40 + number, 30))))
        content = {"caption": caption, "url": "https://x/y.jpg", "key": key, "status": "success", "error_message": None}
        members.append((f"{key}.json", json.dumps(content | {"width": 40 + number, "height": 30} | fields).encode()))
        if caption is not None:
            members.append((f"{key}.txt", caption.encode()))
    return write_tar(path, members)


def spec_of(folder: Path, *shards: Path, tower: TextTower | None = None, **changes: Any) -> RunSpec:
    """A run over texts, in batches of four."""
    given: dict[str, Any] = {"targets": ("text",), "methods": ("legrad", "gradcam"), "batch_size": 4}
    model = clip(folder / "clip", tower or fake_tower())
    return RunSpec(shards=tuple(map(str, shards)), model=model, text_tower=TOWER, **(given | changes))
