"""Weights of other libraries in runs: what was done is printed and recorded, and old atlases stay as they were."""

import json
from pathlib import Path
from typing import Any

import pytest
from explain.original_networks import folder
from support import samples, write_tar

from pipeline.explain.checkpoint.conversion import BY_TIMM
from pipeline.run.plan import check_model
from pipeline.store import Atlas
from schemas.errors import SpecMismatchError
from schemas.model import ConversionRecord
from schemas.run_record import RunRecord

LINE = "weights  names of transformers ViT; norms with epsilon 1e-12; activation gelu\n"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "a.tar", samples(3))


def test_the_whole_way(vitatlas: Any, shard: Path, tmp_path: Path) -> None:
    name, out = folder(tmp_path / "vit", "ViT", "saved"), tmp_path / "atlas"
    given = [shard, "--out", out, "--model", name, "--pretrained", "--methods", "legrad", "--targets", "predicted"]
    code, text, err = vitatlas("plan", *given)
    assert code == 0, err
    assert LINE in text
    assert vitatlas("run", out, "--executor", "inline")[0] == 0
    assert vitatlas("verify", out, "--recompute", 3)[0] == 0
    assert LINE in vitatlas("status", out)[1]
    recorded = json.loads((out / "run.json").read_text())["model"]["conversion"]
    assert recorded == {
        "layout": "transformers ViT", "left_out": [], "epsilon": 1e-12, "activation": "gelu", "positions": None
    }  # fmt: skip
    for command in (["plan", *given], ["status", out]):
        assert json.loads(vitatlas(*command, "--json")[1])["conversion"] == recorded
    config = tmp_path / "vit" / "config.json"
    config.write_text(config.read_text().replace("1e-12", "1e-06"))
    code, _, err = vitatlas("verify", out, "--recompute", 3)
    assert (code, "model.conversion.epsilon is 1e-12, not 1e-06" in err) == (2, True)


def test_an_image_size_is_part_of_the_run(vitatlas: Any, shard: Path, tmp_path: Path) -> None:
    name, out = folder(tmp_path / "vit", "ViT"), tmp_path / "atlas"
    given = [shard, "--out", out, "--model", name, "--pretrained", "--methods", "legrad", "--targets", "predicted"]
    code, text, err = vitatlas("plan", *given, "--image-size", 48)
    assert code == 0, err
    assert "6×6 patches" in text
    assert "positions resampled from 4×4 to 6×6 (bicubic with antialiasing)" in text
    run = Atlas.open(str(out)).run
    assert (run.spec.model.image_size, run.model.input_size) == (48, (48, 48))
    code, _, err = vitatlas("plan", *given)
    assert (code, "model.image_size is 48, not None" in err) == (2, True)


def test_a_checkpoint_key_without_a_checkpoint_is_refused(vitatlas: Any, shard: Path, tmp_path: Path) -> None:
    given = [shard, "--out", tmp_path / "atlas", "--model", "test_vit", "--pretrained", "--checkpoint-key", "teacher"]
    code, _, err = vitatlas("plan", *given)
    assert (code, "checkpoint_key is of a checkpoint; give one" in err) == (2, True)


def test_an_atlas_of_weights_under_timms_names_has_the_hash_that_it_had_before(atlas: Atlas) -> None:
    content = json.loads(atlas.run.to_bytes())
    assert content["model"].pop("conversion") is None
    assert [content["spec"]["model"].pop(name) for name in ("checkpoint_key", "image_size")] == [None, None]
    assert RunRecord.read(content, "run.json").sealed().run_hash == atlas.run.run_hash


def test_an_atlas_from_before_conversions_were_recorded_goes_on_with_those_that_there_were(atlas: Atlas) -> None:
    run = atlas.run
    loaded = run.model.model_copy(update={"conversion": ConversionRecord(layout=BY_TIMM, left_out=("mask_token",))})
    check_model(run, loaded, "atlas")
    loaded = run.model.model_copy(update={"conversion": ConversionRecord(layout="transformers ViT", epsilon=1e-12)})
    with pytest.raises(SpecMismatchError, match=r"model\.conversion\.layout is None, not 'transformers ViT'"):
        check_model(run, loaded, "atlas")
