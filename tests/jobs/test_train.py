"""``vitatlas train`` from tars to gates that a run takes."""

from pathlib import Path

import pytest
from support import samples, write_tar

from pipeline.explain.artifacts import read
from pipeline.store import Atlas
from schemas.run import ModelSpec


@pytest.fixture
def arguments(shards: str, checkpoint: ModelSpec, tmp_path: Path) -> list[object]:
    held_out = write_tar(tmp_path / "held" / "out.tar", samples(6, 100))
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    return ["train", "diffmask", shards, "--held-out", held_out, *model, "--steps", 3, "--batch-size", 4]


def test_gates_are_trained_and_a_run_takes_them(
    vitatlas, arguments: list[object], shards: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    out = tmp_path / "gates.safetensors"
    code, printed, _ = vitatlas(*arguments, "--rate", "1e-3", "--out", out)
    assert code == 0
    assert f"--methods diffmask:artifact={out}" in printed
    card = read(str(out)).card
    assert card is not None
    assert (card.steps, card.settings["rate"], len(card.data)) == (3, 1e-3, 3)
    model = ["--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    methods = f"legrad,diffmask:artifact={out}"
    atlas = tmp_path / "atlas"
    code, _, err = vitatlas("run", shards, "--out", atlas, *model, "--methods", methods, "--executor", "inline")
    assert code == 0, err
    assert Atlas.open(str(atlas)).methods == ("legrad", "diffmask")
    assert 0 < Atlas.open(str(atlas)).raw("s0000", "diffmask").max() < 1


def test_gates_of_another_network_are_refused_before_anything_is_written(
    vitatlas, arguments: list[object], shards: str, tmp_path: Path
) -> None:
    import timm
    from safetensors.torch import save_file

    out = tmp_path / "gates.safetensors"
    assert vitatlas(*arguments, "--out", out)[0] == 0
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), tmp_path / "other.safetensors")
    model = ["--model", "test_vit", "--checkpoint", tmp_path / "other.safetensors"]
    code, _, err = vitatlas("plan", shards, "--out", tmp_path / "x", *model, "--methods", f"diffmask:artifact={out}")
    assert (code, err.count("\n")) == (2, 1)
    assert "was trained on a network of other weights" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--out", "nowhere/gates.safetensors"], "there is no folder nowhere"),
        (["--out", "gates.safetensors", "--pretrained"], "exactly one of pretrained and checkpoint"),
        (["--out", "gates.safetensors", "--steps", "0"], "--steps"),
    ],
)
def test_bad_usage_is_one_sentence(
    vitatlas, arguments: list[object], change: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = vitatlas(*arguments, *change)
    assert code == 2
    assert says in err
    assert not (tmp_path / "gates.safetensors").exists()


def test_tars_that_are_learnt_from_cannot_be_held_out(vitatlas, arguments: list[object], shards: str, tmp_path) -> None:
    code, _, err = vitatlas(*arguments, "--held-out", shards, "--out", tmp_path / "gates.safetensors")
    assert code == 2
    assert "is among the tars to learn from and among those held out" in err
