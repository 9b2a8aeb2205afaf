"""Networks whose every tensor is random, and files of their weights."""

import io
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.explain.load import LoadedModel, load_model, weights_hash
from schemas.run import ModelSpec

DINO = "vit_small_patch16_dinov3"
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 4}
"""Arguments that make a network small. DINOv3 has the same tensors for the read-outs token and avg."""


def network(name: str, classes: int = 7, **arguments: Any) -> nn.Module:
    """A network whose every tensor is random."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def write(folder: Path, weights: dict[str, Tensor], name: str = "model.safetensors") -> str:
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / name)
    return str(folder / name)


def saved_by_torch(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def config(folder: Path, architecture: str, **fields: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, **fields}))


def load(name: str, path: str, **options: Any) -> LoadedModel:
    return load_model(ModelSpec(name=name, checkpoint=path, **options))


def equal(loaded: LoadedModel, model: nn.Module) -> bool:
    """Whether two networks are one function, not only of the same tensors."""
    size = loaded.anatomy.input_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(loaded.model(images), model(images)) and loaded.record.weights == weights_hash(model)
