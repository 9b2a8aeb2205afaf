"""An atlas is measured: a row for each image, method, target and figure, from its own tars and network."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import jpeg, samples, write_tar

from pipeline.demo.world import World
from pipeline.faith import FAITHFULNESS, examine
from pipeline.faith.curves import Curves
from pipeline.faith.examine import draw
from pipeline.faith.sparsity import Sparsity, gini
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import BadTar, UsageError
from schemas.faith import FIGURES, SUMMARY
from schemas.run import RunSpec

CHEAP = {"sparsity": Sparsity()}


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tars in this process."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def test_cores_share_the_tars_and_nothing_changes(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"curves": Curves(2), **CHEAP}
    alone = examine(str(finished), chosen, ["random"], 4, device="cpu")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    shared = examine(str(finished), chosen, ["random"], 4, device="cpu")
    assert shared.figures.equals(alone.figures)
    assert shared.summary.equals(alone.summary)


def test_one_row_an_image_method_target_and_figure(finished: Path) -> None:
    said: list[str] = []
    found = examine(str(finished), images=6, device="cpu", say=said.append)
    atlas = Atlas.open(str(finished))
    names = [figure for measure in FAITHFULNESS.values() for figure in measure.figures]
    assert len(found.figures) == 6 * len(atlas.methods) * 2 * len(names)
    assert found.figures.schema == FIGURES
    assert found.summary.schema == SUMMARY
    rows = found.figures["row"].to_numpy()
    assert (np.diff(rows) >= 0).all()
    of = {row["row"]: row["key"] for row in atlas.samples().to_pylist()}
    assert {(row["row"], row["key"]) for row in found.figures.to_pylist()} <= set(of.items())
    assert len(found.summary) == len(atlas.methods) * 2 * (len(names) + 1)
    for row in found.summary.to_pylist():
        assert row["images"] == 6
        assert row["low"] <= row["mean"] + 1e-12
        assert row["mean"] <= row["high"] + 1e-12
    assert len(said) == 1
    assert said[0].startswith("6 images, at most ")


def test_maps_are_those_of_the_atlas(finished: Path) -> None:
    found = examine(str(finished), CHEAP, images=99, device="cpu").figures
    atlas = Atlas.open(str(finished))
    assert len(found) == 16 * 3 * 2 * 2
    for row in found.filter(pc.equal(found["figure"].cast(pa.string()), "gini")).to_pylist():
        assert row["value"] == pytest.approx(float(gini(atlas.map(row["row"], row["method"], row["target"]))))


def test_the_same_draw_gives_the_same_table_and_another_another(finished: Path) -> None:
    first, again, other = (
        examine(str(finished), {"curves": Curves(2)}, ["random"], 4, seed, "cpu").figures for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert set(first["row"].to_pylist()) != set(other["row"].to_pylist())


def test_images_are_drawn_from_all_tars_and_only_those_with_maps(spec: RunSpec, tmp_path: Path) -> None:
    members = samples(5)
    members[3] = (members[3][0], b"no picture")
    write_tar(tmp_path / "shards" / "part-0.tar", members)
    out = str(tmp_path / "atlas")
    plan(spec, out)
    atlas = run(out, INLINE)
    drawn = dict(draw(atlas, 99, 0))
    assert {tar: len(ordinals) for tar, ordinals in drawn.items()} == {"part-0": 4, "part-1": 7, "part-2": 4}
    assert 1 not in drawn["part-0"]
    assert len(examine(out, CHEAP, ["random"], device="cpu").figures) == 15 * 2 * 2


@pytest.mark.parametrize("change", ["exchanged", "shorter"])
def test_a_tar_that_holds_other_pictures_is_refused(finished: Path, tmp_path: Path, change: str) -> None:
    members = samples(4, 12)
    if change == "exchanged":
        members[0] = (members[0][0], jpeg(99))
    write_tar(tmp_path / "shards" / "part-2.tar", members if change == "exchanged" else members[:9])
    with pytest.raises(BadTar, match="part-2"):
        examine(str(finished), CHEAP, device="cpu")


def test_mistakes_are_named(finished: Path) -> None:
    with pytest.raises(UsageError, match="has no maps of 'lograd'; it has attention, legrad, random"):
        examine(str(finished), CHEAP, ["lograd"])
    with pytest.raises(UsageError, match="name at least one measure"):
        examine(str(finished), {})


def test_without_any_map_there_is_nothing_to_measure(spec: RunSpec, tmp_path: Path) -> None:
    plan(spec, str(tmp_path / "planned"))
    with pytest.raises(UsageError, match="has no finished tar yet; run it first"):
        examine(str(tmp_path / "planned"), CHEAP)


def test_on_the_demo_the_network_agrees_that_legrad_beats_the_controls(world: World, atlas: Atlas) -> None:
    found = examine(atlas.objects.url, {"curves": Curves()}, ("legrad", "center", "uniform"), 24, device="cpu").summary
    of = {(row["method"], row["figure"]): row for row in found.to_pylist() if row["target"] == "predicted"}
    assert of["uniform", "abpc"]["mean"] == 0
    assert of["legrad", "abpc"]["low"] > 0.1
    for control in ("center", "uniform"):
        assert of["legrad", "abpc"]["mean"] > of[control, "abpc"]["mean"]
        assert of["legrad", "deletion"]["mean"] < of[control, "deletion"]["mean"]
