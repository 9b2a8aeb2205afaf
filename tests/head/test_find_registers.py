"""Test-time registers are found where a neuron was planted that gives some patches large norms, and take it over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from golden_models import GOLDEN, golden_model
from PIL import Image
from safetensors.torch import save_file
from support import encode, write_tar

from pipeline.explain import Registers
from pipeline.explain.head import backbone_hash
from pipeline.explain.token_norms import MAD_FACTOR, summarize_norms, token_norms
from schemas.token_norms import TokenNorms

SIDE, PATCH, NEURON = 160, 16, 23
STRIPED = {number: (number % 10) * 10 + number % 7 for number in range(0, 24, 3)}
"""Patch that is striped, by image; the others have none."""


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (SIDE // PATCH, SIDE // PATCH, 3)).repeat(PATCH, 0).repeat(PATCH, 1)
    if number in STRIPED:
        row, column = divmod(STRIPED[number], SIDE // PATCH)
        stripes = np.arange(PATCH)[:, None, None] // 4 % 2 * 200 + 27
        pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = stripes
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Arguments of the command: shards, and a network in which a striped patch sets off one neuron of block 1."""
    folder = tmp_path_factory.mktemp("planted")
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit", num_classes=4).eval()
    mean, std = (np.array(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    pixels = np.stack([np.asarray(picture(number)) for number in range(24)]).transpose(0, 3, 1, 2)
    images = torch.from_numpy((pixels / 255 - mean) / std).float()
    kept: list[torch.Tensor] = []
    mlp = model.blocks[1].mlp
    with torch.no_grad(), mlp.register_forward_pre_hook(lambda _, args: kept.append(args[0][:, 1:])):
        model(images)
    tokens = kept[0]
    striped = torch.stack([tokens[number, place] for number, place in STRIPED.items()]).mean(0)
    direction = striped - tokens.mean((0, 1))
    levels = tokens @ direction
    highest = torch.stack([levels[number, place] for number, place in STRIPED.items()])
    others = levels.flatten().sort(descending=True).values[len(STRIPED)]
    assert highest.min() > others
    middle, gap = (highest.min() + others) / 2, (highest.min() - others) / 2
    with torch.no_grad():
        mlp.fc1.weight[NEURON], mlp.fc1.bias[NEURON] = direction * 6 / gap, -middle * 6 / gap
        mlp.fc2.weight[:, NEURON] = torch.randn(mlp.fc2.out_features)
    save_file(model.state_dict(), folder / "planted.safetensors")
    shards = []
    for index in range(2):
        members = [(f"{n:02}.png", encode(picture(n), "PNG")) for n in range(12 * index, 12 * index + 12)]
        shards.append(write_tar(folder / f"part-{index}.tar", members))
    return [*shards, "--model", "test_vit", "--checkpoint", folder / "planted.safetensors", "--device", "cpu"]


def test_the_planted_neuron_is_found_and_the_outliers_are_gone(vitatlas: Any, given: Any, tmp_path: Path) -> None:
    out = tmp_path / "registers.json"
    code, text, err = vitatlas("head", "registers", *given, "--neurons", 1, "--batch-size", 5, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(text)
    assert found["images"] == 24
    assert found["images_with_outliers"] == len(STRIPED)
    assert found["share"] == pytest.approx(len(STRIPED) / 24 / 100)
    assert found["share_with_registers"] == 0
    assert found["block"] >= found["highest_block"] == 1
    registers = Registers.load(out)
    assert registers.record.neurons == {1: (NEURON,)}
    assert json.loads(registers.record.provenance) == {name: value for name, value in found.items() if name != "out"}
    model = timm.create_model("test_vit", num_classes=4)
    assert registers.record.backbone != backbone_hash(model)

    atlas = tmp_path / "atlas"
    explained = [*given[:-2], "--registers", out, "--methods", "rollout", "--out", atlas]
    code, text, err = vitatlas("run", *explained, "--executor", "inline")
    assert (code, "register 1 at test time, of 1 neurons in 1 blocks" in text) == (0, True), err


def test_thresholds_and_blocks_can_be_given(vitatlas: Any, given: Any, tmp_path: Path) -> None:
    out = tmp_path / "registers.json"
    chosen = ["--threshold", 8, "--block", -2, "--highest-block", 2, "--neurons", 3, "--images", 12]
    code, text, _ = vitatlas("head", "registers", *given, *chosen, "--out", out, "--json")
    found = json.loads(text)
    assert (code, found["images"], found["threshold"], found["highest_block"]) == (0, 12, 8, 2)
    assert found["block"] == len(timm.create_model("test_vit").blocks) - 2
    assert NEURON in Registers.load(out).record.neurons[1]
    code, text, _ = vitatlas("head", "registers", *given, *chosen, "--out", out)
    assert code == 0
    assert "outliers norm above 8 after block" in text
    assert f"use      --registers {out}" in text


def test_what_cannot_be_found_is_said(vitatlas: Any, given: Any, tmp_path: Path) -> None:
    out = tmp_path / "registers.json"
    for arguments, says in (
        (["--threshold", 1e6], "patch tokens has a norm above 1e+06; the median is"),
        (["--block", 99], "--block 99: there are blocks 0 to"),
    ):
        code, _, err = vitatlas("head", "registers", *given, *arguments, "--out", out)
        assert (code, says in err) == (2, True), err
    assert not out.exists()
    (tmp_path / "other.json").write_text("[]")
    code, _, err = vitatlas("head", "registers", *given, "--out", tmp_path / "other.json")
    assert code == 2
    assert (tmp_path / "other.json").read_text() == "[]"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("case", ["A", "E"])
def test_norms_of_tokens_are_those_of_the_reference(case: str, dtype: torch.dtype, tolerance: float) -> None:
    data = np.load(GOLDEN / "new" / f"{case}.npz")
    computed = token_norms(golden_model(case).to(dtype), torch.tensor(data["x"]).to(dtype)).numpy()
    expected = data["token_norms"]
    assert np.abs(computed - expected).max() <= tolerance * expected.max()


def test_outliers_are_counted_above_median_and_deviations() -> None:
    norms = np.ones((2, 1, 100)) + np.tile(np.arange(100) % 5, (2, 1, 1)) / 10  # median 1.2, deviation 0.1
    limit = 1.2 + MAD_FACTOR * 0.1
    norms[0, 0, 7], norms[0, 0, 8] = limit + 1e-6, limit - 1e-6
    summary = summarize_norms(norms)
    assert summary is not None
    assert summary.threshold == pytest.approx((limit,))
    assert (summary.images, summary.patches, summary.outliers, summary.images_with_outliers) == (2, 100, (1,), (1,))
    assert (summary.share(0), summary.ratio(0)) == (1 / 200, pytest.approx(limit / 1.2))
    given = summarize_norms(norms, 1.35)
    assert given is not None
    assert (given.outliers, given.images_with_outliers) == ((40 + 2,), (2,))
    norms[1, 0, 0] = np.inf
    finite = summarize_norms(norms)
    assert finite is not None
    assert finite.images == 1
    assert summarize_norms(norms[1:]) is None


def test_records_of_several_shards_are_joined() -> None:
    def record(images: int, median: float, outliers: int) -> TokenNorms:
        return TokenNorms(
            images=images, patches=4, median=(median, 1.0), largest=(2 * median, 1.5), threshold=(3 * median, 1.4),
            outliers=(outliers, 0), images_with_outliers=(min(outliers, images), 0),
        )  # fmt: skip

    joined = TokenNorms.joined([record(1, 1.0, 2), record(3, 2.0, 1)])
    assert joined is not None
    assert (joined.images, joined.outliers, joined.images_with_outliers) == (4, (3, 0), (2, 0))
    assert (joined.median, joined.largest) == (pytest.approx((1.75, 1.0)), (4.0, 1.5))
    assert joined.share(0) == 3 / 16
    assert (joined.worst_block("token"), joined.worst_block("mean")) == (0, 0)
    later = joined.model_copy(update={"images_with_outliers": (2, 3)})
    assert (later.worst_block("token"), later.worst_block("mean")) == (0, 1)
    assert TokenNorms.joined([]) is None
