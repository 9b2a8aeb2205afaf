"""Training on head files: their losses, what is trained, and artifacts that fit no other head."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_towers import Tower
from support import images_for, in_one_process, random_head, samples, small_vit, write_tar
from torch import nn

from pipeline.explain import Head
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.load import describe_loaded
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.readout import PatchReadout
from pipeline.read import PreprocessConfig
from pipeline.store import Atlas
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.masked_images import MASKED, MaskedImages
from pipeline.train.patch_mask_training import PatchMaskTraining
from schemas.training import DiffMaskSettings, PatchMaskSettings

NETWORKS: dict[str, dict[str, Any]] = {
    "softmax": {"name": "vit_base_patch16_clip_quickgelu_224", "num_classes": 24, "head": "texts"},
    "sigmoid": {"class_token": False, "global_pool": "map", "num_classes": 0, "head": "texts, sigmoid"},
}


@pytest.fixture(params=NETWORKS)
def activation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(activation: str) -> nn.Module:
    return small_vit(**NETWORKS[activation])


def binary_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


@pytest.mark.parametrize("objective", ["distribution", "class"])
def test_the_divergence_is_that_of_the_heads_distribution(model: nn.Module, activation: str, objective: Any) -> None:
    """Of one event of ten for a softmax, of ten independent events for a sigmoid."""
    trained = DiffMaskTraining(describe_loaded("small", model), DiffMaskSettings(objective=objective))
    torch.manual_seed(0)
    plain, masked = 3 * torch.randn(2, 50, 10, dtype=torch.float64)
    targets = torch.randint(0, 10, (50,))
    p, q = (x.softmax(-1) if activation == "softmax" else 1 / (1 + (-x).exp()) for x in (plain, masked))
    if objective == "class":
        expected = binary_kl(*(x.gather(1, targets[:, None])[:, 0] for x in (p, q)))
    else:
        expected = (p * (p / q).log()).sum(-1) if activation == "softmax" else binary_kl(p, q).sum(-1)
    found = trained.compute_divergence(plain, masked, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    with preserve_model_state(model):
        assert trained.train_step(images_for(model), torch.tensor([1, 2, 3]))["kl"] > 0


def test_patches_are_trained_by_the_probability_that_the_method_reads(model: nn.Module, activation: str) -> None:
    loaded = describe_loaded("small", model)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    settings = PatchMaskSettings(min_crop_area=1.0, num_negatives=9, patch_loss_weight=0.5)
    trained = PatchMaskTraining(loaded, settings, 10, (frame, frame))
    rng = np.random.default_rng(0)
    planes = np.zeros((3, 2, 48, 48), np.uint8)
    planes[:, 0, 8:32, 16:40] = 255
    pixels = rng.integers(0, 256, (3, 3, 48, 48), np.uint8)
    batch = MaskedImages(pixels, np.array([1, 4, 7]), planes, np.full(3, MASKED))
    images: list[torch.Tensor] = []
    with trained.session():
        with model.register_forward_pre_hook(lambda module, args: images.append(args[0].detach())):
            loss, metrics = trained.compute_loss(batch, 0)
        with torch.no_grad():
            logits, patches = PatchReadout(model, loaded.anatomy)(images[0])
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trained.update(loss, metrics)
    p, q = (x.softmax(-1) if activation == "softmax" else x.sigmoid() for x in (logits, patches))
    present = torch.nn.functional.one_hot(torch.tensor([1, 4, 7]), 10).bool()
    cross_entropy = -p[present].log()
    binary = -torch.where(present, p.log(), (1 - p).log()).sum(-1)
    entropy = (cross_entropy if activation == "softmax" else binary).mean()
    assert metrics["ce"] == pytest.approx(float(entropy), rel=1e-9)
    object_ = torch.zeros(3, 6, 6, dtype=torch.bool)
    object_[:, 1:4, 2:5] = True
    flipped = torch.stack([object_, object_.flip(2)])  # an image may be mirrored
    q_label = q.transpose(1, 2)[present].unflatten(1, (6, 6))
    fits = -torch.where(flipped, q_label.log(), (1 - q_label).log()).mean((2, 3))
    absent = -(1 - q.transpose(1, 2)[~present].unflatten(0, (3, 9))).log().mean((1, 2))
    patch = metrics["patch"] - 0.25 * float(absent.mean())
    possible = [sum(fits[side, place] for place, side in enumerate(sides)) / 3 for sides in np.ndindex(2, 2, 2)]
    assert min(abs(float(value) - patch) for value in possible) < 1e-6
    after = model.state_dict()
    assert all(torch.equal(before[f"head.{name}"], after[f"head.{name}"]) for name in ("text", "scale", "bias"))
    assert not torch.equal(before["blocks.0.mlp.fc1.weight"], after["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("method", ["diffmask", "pm"])
def test_an_artifact_fits_the_head_that_it_was_trained_with_and_no_other(
    vitatlas: Any, method: str, tmp_path: Path
) -> None:
    tower, out = Tower("clip", tmp_path), tmp_path / "trained.safetensors"
    held_out = write_tar(tmp_path / "held" / "out.tar", samples(6, 100, classes=4))
    masks = ["--masks", tower.masks, "--mask-values", "indexed"] if method == "pm" else []
    steps = ["--steps", 2, "--batch-size", 3, "--out", out]
    code, _, err = vitatlas("train", method, tower.shard, "--held-out", held_out, *tower.model, *masks, *steps)
    assert code == 0, err
    record = read_artifact(str(out)).record
    assert record is not None
    assert record.head == Head.load(tower.head).digest
    run = ["run", tower.shard, "--methods", method, "--artifact", out, "--executor", "inline"]
    with in_one_process():
        code, _, err = vitatlas(*run, *tower.model, "--out", tmp_path / "atlas")
    assert code == 0, err
    atlas = Atlas.open(str(tmp_path / "atlas"))
    assert atlas.run.model.head is not None
    assert (record.head, record.backbone) == (atlas.run.model.head.hash, atlas.run.model.head.backbone)
    assert 0 <= atlas.raw("s0", method).min() < atlas.raw("s0", method).max() <= 1
    other = Head.load(tower.head)
    other.tensors["text"] = other.tensors["text"].flip(0).contiguous()
    other.save(tower.head)
    for model, has in (
        (tower.model, f"the head {Head.load(tower.head).digest[:19]}"),
        (tower.model[:3], "no head file"),
    ):
        code, _, err = vitatlas(*run, *model, "--out", tmp_path / "other")
        assert (code, err.count("\n")) == (2, 1)
        assert f"it was trained with the head {record.head[:19]}…, and this model has {has}" in err
    assert not (tmp_path / "other").exists()


def test_nothing_is_learned_from_the_softmax_of_one_text(vitatlas: Any, tmp_path: Path) -> None:
    tower = Tower("clip", tmp_path)
    head = Head.load(tower.head)
    tensors = head.tensors | {"text": head.tensors["text"][:1].clone()}
    Head(head.record.model_copy(update={"classes": ("cat",)}), tensors).save(tower.head)
    held_out = write_tar(tmp_path / "held" / "out.tar", samples(6, 100, classes=1))
    rest = ["--held-out", held_out, *tower.model, "--out", tmp_path / "x.safetensors"]
    code, _, err = vitatlas("train", "diffmask", tower.shard, *rest)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tower.head}: gives nothing to learn: the softmax of its only class is always 1" in err


def test_a_sigmoid_head_of_one_text_is_learned_from() -> None:
    head = random_head("texts, sigmoid", classes=("cat",))
    head.tensors["text"] = head.tensors["text"][:1]
    model = head.attach(small_vit(class_token=False, global_pool="map", num_classes=0))
    with preserve_model_state(model):
        trained = DiffMaskTraining(describe_loaded("small", model), DiffMaskSettings())
        assert trained.train_step(images_for(model))["kl"] > 0
