"""Shards are appended to an atlas: it is then the one that had been planned with all shards."""

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import FAST, crashed_copies, in_one_process, interrupted_at, objects_of, same_atlas, samples, write_tar

from pipeline.audit.verify_products import verify_products
from pipeline.label import label
from pipeline.label.label_atlas import read_labels
from pipeline.run import INLINE, run
from pipeline.run.append import Append, append, plan_append
from pipeline.run.extend import extend
from pipeline.run.plan import plan
from pipeline.run.recompute_maps import cached_worker, recompute
from pipeline.score import score
from pipeline.store import Atlas, lease
from pipeline.store.drop import drop
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.errors import AtlasError, RunFailedError, UsageError
from schemas.layout import APPENDED
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import AppendedRecord

ADDED = "attn_gradcam"


def may_change(name: str) -> bool:
    """The two kinds of objects that are written again: the list, and the metadata that tell the length of arrays."""
    return name == APPENDED or name.endswith("zarr.json") or "/target/c/" in name


@dataclass(frozen=True)
class World:
    """An atlas of two shards with a part, the same after two shards were appended, and one planned with all shards."""

    shards: Path
    before: Path
    appended: Path
    at_once: Path

    @property
    def later(self) -> tuple[str, ...]:
        return tuple(f"{self.shards}/part-{index}.tar" for index in (2, 3))


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("appended")
    world = World(folder / "shards", folder / "before", folder / "appended", folder / "at-once")
    for index, (first, size) in enumerate(((0, 2), (2, 3), (5, 1), (6, 3))):
        write_tar(world.shards / f"part-{index}.tar", samples(size, first))
    spec = RunSpec(shards=(f"{world.shards}/part-[01].tar",), model=checkpoint, methods=FAST, batch_size=4)
    plan(spec, f"{world.before}")
    plan(spec.model_copy(update={"shards": (f"{world.shards}/*.tar",)}), f"{world.at_once}")
    run(f"{world.before}", INLINE)
    extend(f"{world.before}", [ADDED], options=INLINE)
    run(f"{world.at_once}", INLINE)
    extend(f"{world.at_once}", [ADDED], options=INLINE)
    shutil.copytree(world.before, world.appended)
    append(f"{world.appended}", world.later, INLINE)
    return world


@pytest.fixture
def finished(made: World, tmp_path: Path) -> Path:
    """A copy of the atlas as it was before."""
    return Path(shutil.copytree(made.before, tmp_path / "atlas"))


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with in_one_process():
        yield


def test_appending_changes_no_row_and_gives_the_atlas_of_one_plan(made: World) -> None:
    before, after = objects_of(made.before), objects_of(made.appended)
    assert before.keys() <= after.keys()
    changed = {name for name in before if after[name] != before[name]}
    assert changed
    assert all(map(may_change, changed))
    new = {Path(name).stem for name in after.keys() - before.keys() if "/c/" not in name}
    assert new == {"part-2", "part-3", "appended"}
    atlas = Atlas.open(str(made.appended))
    assert atlas.own.run_hash == Atlas.open(str(made.before)).own.run_hash
    at_once = Atlas.open(str(made.at_once))
    same_atlas(atlas, at_once)
    assert atlas.own.shards == at_once.own.shards
    assert atlas.to_xarray().equals(at_once.to_xarray())


def test_appended_shards_are_verified_and_read_like_the_rest(made: World) -> None:
    atlas, other = Atlas.open(str(made.appended)), Atlas.open(str(made.at_once))
    result = verify(atlas)
    assert (result.faults, result.notes, result.missing) == ([], [], 0)
    again = recompute(atlas)
    assert (again.faults, again.maps, again.equal) == ([], 9 * 2 * 4, 9 * 2 * 4)
    for method in ("legrad", ADDED):
        assert len(atlas.dataset(method)) == 9
        assert atlas.raw("s0007", method).tolist() == other.raw("s0007", method).tolist()
    assert pickle.loads(pickle.dumps(atlas)).own.shards == atlas.own.shards
    (part,) = atlas.parts
    assert verify(Atlas.open(part.objects.url)).faults == []


def test_the_same_shards_again_change_nothing(made: World, tmp_path: Path) -> None:
    out, plans = Path(shutil.copytree(made.appended, tmp_path / "again")), list[Append]()
    before = objects_of(out)
    append(str(out), [f"{made.shards}/*.tar"], INLINE, plans.append)
    assert (plans[0].present, plans[0].shards) == (4, ())
    assert objects_of(out) == before


@pytest.mark.soak  # tests/s3/test_extend.py appends twice, too
def test_shards_are_appended_one_after_another(made: World, finished: Path) -> None:
    for shard in made.later:
        append(str(finished), [shard], INLINE)
    same_atlas(Atlas.open(str(finished)), Atlas.open(str(made.at_once)))
    record = AppendedRecord.read((finished / APPENDED).read_bytes(), APPENDED)
    assert (len(record.shards), record.latest) == (2, 1)
    assert verify(Atlas.open(str(finished))).faults == []


def test_methods_are_added_and_dropped_after_shards_were_appended(made: World, tmp_path: Path) -> None:
    out = shutil.copytree(made.appended, tmp_path / "more")
    other = shutil.copytree(made.at_once, tmp_path / "other")
    for url in (str(out), str(other)):
        extend(url, ["center"], options=INLINE)
        drop(url, ["legrad", ADDED])
    atlas = Atlas.open(str(out))
    assert set(atlas.methods) == {*FAST, "center"} - {"legrad"}
    same_atlas(atlas, Atlas.open(str(other)))
    assert verify(atlas).faults == []
    (part,) = atlas.parts
    assert len(part.own.shards) == 4


def test_the_plan_of_before_is_still_the_plan(made: World, tmp_path: Path, checkpoint: ModelSpec) -> None:
    out = Path(shutil.copytree(made.appended, tmp_path / "again"))
    before = objects_of(out)
    spec = RunSpec(shards=(f"{made.shards}/part-[01].tar",), model=checkpoint, methods=FAST, batch_size=4)
    for methods in (FAST, (*FAST, ADDED)):
        assert len(plan(spec.model_copy(update={"methods": methods}), str(out)).shards) == 4
    assert objects_of(out) == before


def policy(*methods: str) -> Policy:
    return Policy(name="p", methods=methods, threshold=Threshold(kind="otsu"), target="label")


def test_products_made_before_stay_valid_and_are_extended(made: World, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image_id,x0,y0,x1,y1\n" + "".join(f"s{n:04d},5,5,20,20\n" for n in range(9)))
    truth, labels, scores = read_truth(tmp_path / "boxes.csv"), finished / "labels" / "p", finished / "scores" / "s"
    chosen = policy("legrad", ADDED)
    label(Atlas.open(str(finished)), chosen, ["png"], str(labels))
    score(Atlas.open(str(finished)), truth, methods=("legrad",), subset=True, out=str(scores))
    before = objects_of(labels)
    append(str(finished), made.later, INLINE)
    assert objects_of(labels) == before
    atlas, at_once = Atlas.open(str(finished)), Atlas.open(str(made.at_once))
    products = verify_products(atlas)
    assert (products.faults, len(products.folders), list(products.partial.values())) == ([], 2, [2, 2])
    label(atlas, chosen, ["png"], str(labels))
    after = objects_of(labels)
    kept = [name for name in before if name.partition("/")[0] in ("commits", "labels", "png")]
    assert kept
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    label(at_once, chosen, ["png"], str(tmp_path / "labels"))
    found, expected = (read_labels(str(each)).drop(["parent"]) for each in (labels, tmp_path / "labels"))
    assert found.equals(expected)
    table = score(atlas, truth, methods=("legrad",), subset=True, out=str(scores))
    other = score(at_once, truth, methods=("legrad",), subset=True, out=str(tmp_path / "scores"))
    assert table.drop(["source"]).equals(other.drop(["source"]))
    products = verify_products(atlas)
    assert (products.faults, products.partial) == ([], {})


@pytest.mark.parametrize(("size", "says"), [(4, "has 4 samples, and each shard of the atlas has room for 3 rows")])
def test_a_shard_larger_than_the_slot_is_refused(finished: Path, tmp_path: Path, size: int, says: str) -> None:
    before = objects_of(finished)
    small, large = (write_tar(tmp_path / f"new-{n}.tar", samples(n, 100)) for n in (2, size))
    for refused in (plan_append, append):
        with pytest.raises(UsageError, match=says):
            refused(str(finished), [str(small), str(large)])
    assert objects_of(finished) == before


def test_what_cannot_be_appended_is_refused(made: World, finished: Path, tmp_path: Path) -> None:
    before = objects_of(finished)
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"junk" * 1000)
    (part,) = Atlas.open(str(finished)).parts
    for url, shard, says in (
        (finished, tmp_path / "nowhere.tar", "no such shard"),
        (finished, broken, "no shard can be used"),
        (part.objects.url, made.later[0], "is a part of an atlas"),
        (finished, "pipe:cat x", "allow-pipe"),
    ):
        with pytest.raises(AtlasError, match=says):
            append(str(url), [str(shard)], INLINE)
    assert objects_of(finished) == before


def test_a_shard_with_the_name_of_another_gets_its_own(made: World, finished: Path, tmp_path: Path) -> None:
    again = write_tar(tmp_path / "more" / "part-1.tar", samples(3, 50))
    atlas = append(str(finished), [str(again)], INLINE)
    assert atlas.shard_names == ("part-0", "part-1", "part-1.2")
    assert atlas.samples_of("part-1.2", ["row"])["row"].to_pylist() == [6, 7, 8]
    assert verify(atlas).faults == []


def test_of_two_at_once_the_second_is_refused(made: World, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TIMEOUT", 2.0)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    refused = list[str]()

    def second(planned: Append) -> None:
        with pytest.raises(RunFailedError) as error:
            append(str(finished), made.later[1:], INLINE)
        refused.append(str(error.value))

    append(str(finished), made.later[:1], INLINE, second)
    assert "is writing to it; wait for its end" in refused[0]
    assert len(Atlas.open(str(finished)).shard_names) == 3


def test_shards_that_another_has_appended_since_are_never_added_twice(
    made: World, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of the first was taken over while it counted samples."""

    def second(planned: Append) -> None:
        (finished / "lease.json").unlink()
        append(str(finished), made.later[:1], INLINE)

    with pytest.raises(RunFailedError, match="another command has appended shards"):
        append(str(finished), made.later[:1], INLINE, second)
    assert [shard.name for shard in Atlas.open(str(finished)).own.shards] == ["part-0", "part-1", "part-2"]


def test_an_append_that_was_stopped_is_resumed_by_run(made: World, finished: Path) -> None:
    with interrupted_at(3, f"1 shards are left; resume with: vitatlas run {finished} "):
        append(str(finished), made.later, INLINE)
    atlas = Atlas.open(str(finished))
    assert (atlas.shard_names, atlas.methods) == (("part-0", "part-1", "part-2"), FAST)
    with pytest.raises(UsageError, match=f"{ADDED} is being added, 2 of 3 shards have its maps; finish it: vit"):
        atlas.map("s0001", ADDED)
    result = verify(atlas)
    assert (result.faults, result.missing) == ([], 1 + 2)
    same_atlas(run(str(finished), INLINE), Atlas.open(str(made.at_once)))


def test_a_process_that_reads_sees_shards_that_are_appended(made: World, finished: Path) -> None:
    """Even one that keeps an atlas or a network open for further shards."""
    before = Atlas.open(str(finished))
    pickle.loads(pickle.dumps(before))
    cached_worker(before.locate("part-0"), "cpu")
    append(str(finished), made.later, INLINE)
    atlas = Atlas.open(str(finished))
    assert len(pickle.loads(pickle.dumps(atlas)).shard("part-3").samples) == 3
    assert len(cached_worker(atlas.locate("part-0"), "cpu").run.shards) == 4
    assert before.shard_names == ("part-0", "part-1")
    assert len(before.shard("part-1").samples) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"run_hash": "sha256:0"}, "is of another atlas"),
        ({"shards": []}, "has been changed since it was written"),
        ({"latest": -1}, "latest"),
    ],
)
def test_a_list_that_was_changed_is_refused(made: World, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    out = Path(shutil.copytree(made.appended, tmp_path / "changed"))
    content = json.loads((out / APPENDED).read_bytes())
    (out / APPENDED).write_text(json.dumps(content | change))
    with pytest.raises(AtlasError, match=f"{APPENDED}.*{says}"):
        Atlas.open(str(out))


def test_a_list_with_a_shard_beyond_the_slot_is_refused(made: World, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made.appended, tmp_path / "changed"))
    record = AppendedRecord.read((out / APPENDED).read_bytes(), APPENDED)
    content = record.model_dump(mode="json")
    content["shards"][0]["samples"] = 4
    (out / APPENDED).write_bytes(AppendedRecord.read(json.dumps(content).encode(), "").sealed().to_bytes())
    with pytest.raises(RunFailedError, match="slot is not the largest number of samples"):
        Atlas.open(str(out))


@pytest.mark.usefixtures("computed_once")
@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.soak)])
def test_a_crash_at_any_moment_of_an_append_is_mended(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before, after = objects_of(made.before), objects_of(made.appended)
    copies = crashed_copies(made.before, tmp_path, step, monkeypatch, lambda url: append(url, made.later, INLINE))
    for k, out in copies:
        now = objects_of(out)
        assert all(now[name] == data for name, data in before.items() if not may_change(name)), k
        atlas = Atlas.open(str(out))
        assert verify(atlas).faults == [], k
        assert atlas.map("s0001", "legrad").shape == atlas.run.model.grid
        resume = append if k % 2 else lambda url, shards, options: run(url, options)
        resume(str(out), made.later, INLINE)
        if not (out / APPENDED).exists():  # run knows nothing of what had not begun
            append(str(out), made.later, INLINE)
        now = objects_of(out)
        assert now.keys() == after.keys()
        assert all(now[name] == data for name, data in after.items() if "commits/" not in name), k
    assert k > 30, k
