"""Test-time registers in runs: another network, recorded, recomputed, and refused where it does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from support import in_one_process

from pipeline.explain import Registers, explain
from pipeline.explain.head import backbone_hash
from pipeline.explain.token_norms import summarize_norms, token_norms
from pipeline.head.backbone import load_backbone
from pipeline.store import Atlas
from pipeline.store.images import read_images
from schemas.errors import UsageError
from schemas.registers import RegistersRecord
from schemas.run import ModelSpec
from schemas.run_record import RunRecord

METHODS = "rollout,legrad,reciprocam,transformer_attribution,pm_value,cp_lrp,center"


@pytest.fixture
def model(checkpoint: ModelSpec) -> torch.nn.Module:
    network = timm.create_model("test_vit", num_classes=10).eval()
    network.load_state_dict(load_file(str(checkpoint.checkpoint)))
    return network


@pytest.fixture
def file(model: torch.nn.Module, tmp_path: Path) -> Path:
    record = RegistersRecord(neurons={0: (1, 5), 4: (7,)}, backbone=backbone_hash(model), provenance="drawn")
    Registers(record).save(tmp_path / "registers.json")
    return tmp_path / "registers.json"


def test_the_whole_way(
    vitatlas: Any, checkpoint: ModelSpec, model: torch.nn.Module, shards: str, file: Path, tmp_path: Path
) -> None:
    out, given = tmp_path / "atlas", ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint]
    planned = [shards, "--out", out, *given, "--methods", METHODS, "--registers", file]
    code, text, err = vitatlas("run", *planned, "--executor", "inline")
    assert code == 0, err
    line = "register 1 at test time, of 3 neurons in 2 blocks\n"
    assert line in text
    code, text, _ = vitatlas("status", out)
    assert (code, line in text) == (0, True)
    code, text, _ = vitatlas("status", out, "--json")
    assert json.loads(text)["registers"] == Registers.load(file).record.attached.model_dump()
    with in_one_process():
        code, text, _ = vitatlas("verify", out, "--recompute", 4)
    assert (code, "56 maps were recomputed, 56 of them bit-identical" in text) == (0, True)

    assert vitatlas("run", shards, "--out", tmp_path / "plain", *planned[3:-2], "--executor", "inline")[0] == 0
    atlas, plain = Atlas.open(str(out)), Atlas.open(str(tmp_path / "plain"))
    assert atlas.run.model.weights != plain.run.model.weights
    assert plain.run.model.registers is None
    assert "of 3 neurons" in atlas._repr_html_()
    shard = atlas.shard("part-0")
    _, pictures = next(read_images(shard, [0, 1], 2))
    images = torch.stack([torch.as_tensor(picture) for picture in pictures])
    network = Registers.load(file).attach(model)
    mean, std = (torch.tensor(values)[:, None, None] for values in (atlas.run.model.mean, atlas.run.model.std))
    maps = explain(network, (images / 255 - mean) / std, 0, "rollout")
    keys = shard.samples["key"].to_pylist()
    for place in range(2):
        stored, expected = torch.from_numpy(atlas.raw(keys[place], "rollout")), maps["rollout"][place, 0]
        assert (stored - expected).abs().max() <= 1e-3 * (expected.max() - expected.min())
        assert not torch.allclose(torch.from_numpy(plain.raw(keys[place], "rollout")), expected, rtol=1e-3)


def test_a_file_that_changed_after_the_plan_is_refused(
    vitatlas: Any, checkpoint: ModelSpec, shards: str, file: Path, tmp_path: Path
) -> None:
    out, given = tmp_path / "atlas", ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint]
    planned = [shards, "--out", out, *given, "--methods", "legrad", "--registers", file]
    assert vitatlas("plan", *planned)[0] == 0
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"provenance": "other words"}))
    assert vitatlas("plan", *planned)[0] == 0
    file.write_text(json.dumps(content | {"neurons": {"0": [1]}}))
    for command in (["run", out, "--executor", "inline"], ["plan", *planned]):
        code, _, err = vitatlas(*command)
        assert (code, err.count("\n")) == (2, 1)
        assert "model.registers.hash is 'sha256:" in err
    file.write_text(json.dumps(content | {"backbone": "sha256:0"}))
    code, _, err = vitatlas("plan", *[*planned[:1], "--out", tmp_path / "other", *planned[3:]])
    assert (code, "registers.json: does not fit VisionTransformer: its neurons were found in the network" in err) == (
        2,
        True,
    )


def test_an_atlas_without_registers_is_written_as_before_there_were_any(atlas: Atlas) -> None:
    content = json.loads(atlas.run.to_bytes())
    assert "registers" not in content["model"]
    assert "registers" not in content["spec"]["model"]
    assert RunRecord.read(content, "run.json").sealed().run_hash == atlas.run.run_hash
    assert not {name for name in atlas.run.hashes if "registers" in name}


def test_no_head_is_learned_with_them(checkpoint: ModelSpec, file: Path) -> None:
    with pytest.raises(UsageError, match=r"registers\.json: a head is learned from a network without"):
        load_backbone(checkpoint.model_copy(update={"registers": str(file)}), device="cpu")


def test_norms_of_tokens_are_measured_in_the_run_and_shown(
    vitatlas: Any, checkpoint: ModelSpec, model: torch.nn.Module, shards: str, tmp_path: Path
) -> None:
    out, given = tmp_path / "atlas", ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint]
    given += ["--methods", "rollout", "--batch-size", 4, "--executor", "inline"]
    assert vitatlas("run", shards, "--out", out, *given)[0] == 0
    atlas = Atlas.open(str(out))
    first = atlas.record("part-0").token_norms
    assert first is not None
    _, pictures = next(read_images(atlas.shard("part-0"), [0, 1, 2, 3], 4))
    mean, std = (torch.tensor(values)[:, None, None] for values in (atlas.run.model.mean, atlas.run.model.std))
    images = (torch.stack([torch.as_tensor(picture) for picture in pictures]) / 255 - mean) / std
    norms = token_norms(model, images)[:, :, 1:].numpy()
    expected = summarize_norms(norms)
    assert expected is not None
    assert first.median == pytest.approx(expected.median, rel=1e-4)
    assert (first.images, first.outliers) == (4, expected.outliers)
    code, text, _ = vitatlas("status", out)
    assert (code, "outliers among patch tokens after block" in text) == (0, True)
    found = json.loads(vitatlas("status", out, "--json")[1])["token_norms"]
    assert found["images"] == 3 * 4
    assert vitatlas("extend", out, "--methods", "center", "--executor", "inline")[0] == 0
    again = Atlas.open(str(out))
    assert [commit.token_norms for part in again.parts for commit in part.records()] == [None] * 3
    assert json.loads(vitatlas("status", out, "--json")[1])["token_norms"] == found
