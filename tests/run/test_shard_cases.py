"""Small tars that once gave a wrong answer, from plan to maps: their pictures are of the demo world."""

import shutil
from pathlib import Path

import pytest
from support import DEMO_MODEL, samples, write_tar

from pipeline.explain.explainer import Explainer
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.run import ModelSpec, RunSpec

CASES = Path(__file__).parents[1] / "read" / "cases"


def atlas_of(name: str, folder: Path, **options: object) -> Atlas:
    spec = RunSpec(shards=(str(CASES / name),), model=DEMO_MODEL, methods=("attention",), batch_size=4, **options)
    plan(spec, str(folder / "atlas"))
    return run(str(folder / "atlas"), INLINE)


@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        ("plain.tar", {}, ["a", "b", "c"]),
        ("pz1.tar.zst", {}, ["a", "b", "c"]),
        ("webpmask.tar", {"image_key": ("webp",)}, ["s0", "s1"]),
        ("dots.tar", {"key_separator": "last-dot"}, ["22.05", "22.06", "22.07", "other"]),
    ],
)
def test_predictions_are_the_labels(name: str, options: dict[str, object], keys: list[str], tmp_path: Path) -> None:
    atlas = atlas_of(name, tmp_path, **options)
    rows = atlas.samples().to_pylist()
    assert [row["key"] for row in rows] == keys
    assert [row["status"] for row in rows] == ["ok"] * len(keys)
    assert [row["prediction"] for row in rows] == [row["label"] for row in rows]
    for option, value in options.items():
        assert getattr(Atlas.open(atlas.objects.url).run.spec, option) == value


def test_an_explained_mask_is_what_image_key_says_and_nothing_else(tmp_path: Path) -> None:
    rows = atlas_of("webpmask.tar", tmp_path, image_key=("png",)).samples().to_pylist()
    assert [row["member"] for row in rows] == ["s0.png", "s1.png"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("webpmask.tar", "--image-key webp"),
        ("dots.tar", "--key-separator last-dot"),
        ("inter2.tar", "tar --sort=name"),
    ],
)
def test_a_plan_refuses_what_it_cannot_decide_and_names_the_fix(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        atlas_of(name, tmp_path)


@pytest.mark.parametrize(("name", "rows", "maps"), [("sym.tar", 4, 2), ("exts.tar", 18, 10)])
def test_an_image_without_maps_is_a_row(name: str, rows: int, maps: int, tmp_path: Path) -> None:
    atlas = atlas_of(name, tmp_path, targets=("predicted",))
    table = atlas.samples().to_pylist()
    assert len(table) == atlas.run.samples == rows
    assert sum(row["status"] == "ok" for row in table) == maps
    assert all(row["error"] for row in table if row["status"] != "ok")


def test_files_of_no_sample_are_named_by_plan(tmp_path: Path, vitatlas) -> None:
    shutil.copy(CASES / "exts.tar", tmp_path)
    code, _, err = vitatlas(
        "plan", tmp_path / "exts.tar", "--out", tmp_path / "atlas", "--model", DEMO_MODEL.name, "--pretrained",
        "--targets", "predicted", "--methods", "attention",
    )  # fmt: skip
    assert code == 0
    assert f"note     {tmp_path}/exts.tar: files of no sample: 1 npy" in err


def test_a_batch_without_an_image_takes_no_forward(
    tmp_path: Path, checkpoint: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = 0
    compute = Explainer.maps

    def count(self: Explainer, *arguments: object):
        nonlocal forwards
        forwards += 1
        return compute(self, *arguments)

    monkeypatch.setattr(Explainer, "maps", count)
    path = write_tar(tmp_path / "a.tar", [*[(f"a{i}.jpg", b"junk") for i in range(8)], *samples(4)])
    spec = RunSpec(shards=(str(path),), model=checkpoint, methods=("attention",), targets=("predicted",), batch_size=4)
    plan(spec, str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    assert dict(atlas.statuses()) == {"undecodable": 8, "ok": 4}
    assert forwards == 1
