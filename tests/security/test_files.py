"""Specs, policies, weights and artefacts that are not what they should be: none of them runs."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import samples, write_tar

from schemas.run import ModelSpec

Vitatlas = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shard(inside: Path) -> Path:
    return write_tar(inside / "a.tar", samples(2))


@pytest.mark.parametrize("command", ["spec", "policy"])
def test_yaml_makes_no_objects(
    vitatlas: Vitatlas, checkpoint: ModelSpec, shard: Path, inside: Path, outside: Path, command: str
) -> None:
    (inside / "a.yaml").write_text(f"name: !!python/object/apply:os.open ['{outside}/marker', 64]\n")
    arguments = {
        "spec": ["plan", shard, "--spec", inside / "a.yaml", "--out", inside / "atlas"],
        "policy": ["label", inside / "atlas", "--policy", inside / "a.yaml"],
    }
    code, _, err = vitatlas(*arguments[command])
    assert (code, "is not YAML" in err) == (2, True)


@pytest.fixture(params=["pickle", "zip of torch", "in a state dict"])
def pickled(request: pytest.FixtureRequest, bomb: bytes, marker: object) -> bytes:
    """A pickle that acts when it is loaded, in the formats that torch.load takes."""
    if request.param == "pickle":
        return bomb
    content = marker if request.param == "zip of torch" else {"state_dict": {"head.weight": marker}}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt", "weights.bin", "weights.ckpt"])
def test_a_checkpoint_that_is_a_pickle_is_refused(
    vitatlas: Vitatlas, shard: Path, inside: Path, pickled: bytes, name: str
) -> None:
    (inside / name).write_bytes(pickled)
    given = ["--model", "test_vit", "--checkpoint", inside / name]
    code, _, err = vitatlas("plan", shard, "--out", inside / "atlas", *given)
    assert (code, "safetensors" in err) == (2, True)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.pth", "a.bin", "a.pth.tar", "a.npz"])
def test_a_folder_of_timm_with_a_pickle_is_refused(
    vitatlas: Vitatlas, shard: Path, inside: Path, pickled: bytes, name: str
) -> None:
    (inside / "model").mkdir()
    (inside / "model" / "config.json").write_text('{"architecture": "test_vit", "num_classes": 10}')
    (inside / "model" / name).write_bytes(pickled)
    given = ["--model", f"local-dir:{inside / 'model'}", "--pretrained"]
    code, _, err = vitatlas("plan", shard, "--out", inside / "atlas", *given)
    assert (code, "safetensors" in err) == (2, True)


@pytest.mark.parametrize("command", ["run", "verify"])
def test_an_atlas_that_names_a_folder_with_a_pickle_runs_nothing(
    vitatlas: Vitatlas, finished: Path, inside: Path, pickled: bytes, command: str
) -> None:
    (inside / "model").mkdir()
    (inside / "model" / "config.json").write_text('{"architecture": "test_vit", "num_classes": 10}')
    (inside / "model" / "pytorch_model.bin").write_bytes(pickled)
    record = json.loads((finished / "run.json").read_text())
    record["spec"]["model"] = {"name": f"local-dir:{inside / 'model'}", "pretrained": True}
    (finished / "run.json").write_text(json.dumps(record))
    for commit in finished.glob("commits/*"):
        commit.unlink()
    atlas = finished.rename(inside / "atlas")
    code, _, err = vitatlas(command, atlas)
    assert code != 0
    assert "Traceback" not in err


def test_an_artefact_that_is_a_pickle_is_refused(
    vitatlas: Vitatlas, checkpoint: ModelSpec, shard: Path, inside: Path, bomb: bytes
) -> None:
    (inside / "gates.safetensors").write_bytes(bomb)
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--artifact", inside / "gates.safetensors"]
    code, _, err = vitatlas("run", shard, "--out", inside / "atlas", *given)
    assert (code, "cannot be read as safetensors" in err) == (2, True)


def test_what_a_training_goes_on_from_may_not_run_either(
    vitatlas: Vitatlas, checkpoint: ModelSpec, shard: Path, inside: Path, bomb: bytes
) -> None:
    (inside / "gates.safetensors.checkpoint").write_bytes(bomb)
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--out", inside / "gates.safetensors"]
    code, _, err = vitatlas("train", "diffmask", shard, *given)
    assert code != 0
    assert "Traceback" not in err


def test_a_card_is_read_as_data(vitatlas: Vitatlas, checkpoint: ModelSpec, shard: Path, inside: Path) -> None:
    save_file(
        {"a": torch.zeros(1)}, inside / "gates.safetensors", {"record": "__import__('os').system('touch marker')"}
    )
    given = ["--model", "test_vit", "--checkpoint", checkpoint.checkpoint, "--artifact", inside / "gates.safetensors"]
    code, _, err = vitatlas("run", shard, "--out", inside / "atlas", *given)
    assert (code, "Invalid JSON" in err) == (2, True)
