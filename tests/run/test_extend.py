"""Methods are added to an atlas by a part: the maps are those of an atlas planned with all methods at once."""

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import (
    FAST,
    crashed_copies,
    in_one_process,
    interrupted_at,
    objects_of,
    predict_first_class,
    same_atlas,
    samples,
    write_tar,
)

from pipeline.audit.verify_products import verify_products
from pipeline.label import label
from pipeline.label.label_atlas import read_labels
from pipeline.run import INLINE, run
from pipeline.run.driver import run_under_lease
from pipeline.run.extend import Extension, extend
from pipeline.run.plan import plan
from pipeline.run.recompute_maps import recompute
from pipeline.score import score
from pipeline.store import Atlas, Lease, ObjectStore, lease
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.commits import DerivedCommit
from schemas.errors import AtlasError, RunFailedError, SpecMismatchError, UsageError
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord
from schemas.shard_record import SourceRecord

ADDED = ("reciprocam:kernel=single", "attn_gradcam")
NAMES = ("reciprocam_single", "attn_gradcam")


@dataclass(frozen=True)
class World:
    """An atlas of three shards, the same after two methods were added, and one planned with all methods."""

    before: Path
    extended: Path
    all_at_once: Atlas


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("extended")
    for index, (first, size) in enumerate(((0, 5), (5, 7), (12, 4))):
        write_tar(folder / "shards" / f"part-{index}.tar", samples(size, first))
    spec = RunSpec(shards=(f"{folder}/shards/*.tar",), model=checkpoint, methods=FAST, batch_size=4)
    everything = spec.model_copy(update={"methods": (*FAST, *ADDED)})
    plan(spec, f"{folder}/before")
    plan(everything, f"{folder}/all")
    run(f"{folder}/before", INLINE)
    shutil.copytree(folder / "before", folder / "extended")
    extend(f"{folder}/extended", ADDED, options=INLINE)
    return World(folder / "before", folder / "extended", run(f"{folder}/all", INLINE))


@pytest.fixture
def finished(made: World, tmp_path: Path) -> Path:
    """A copy of the atlas as it was before."""
    return Path(shutil.copytree(made.before, tmp_path / "atlas"))


@pytest.fixture
def extended(made: World, tmp_path: Path) -> Path:
    """A copy of the extended atlas."""
    return Path(shutil.copytree(made.extended, tmp_path / "extended"))


@pytest.fixture
def all_at_once(made: World) -> Atlas:
    return made.all_at_once


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with in_one_process():
        yield


def test_extending_writes_only_a_part_and_gives_the_maps_of_one_plan(made: World) -> None:
    before, after = objects_of(made.before), objects_of(made.extended)
    (part,) = (made.extended / "parts").iterdir()
    new = {name.removeprefix(f"parts/{part.name}/") for name in after.keys() - before.keys()}
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(f"parts/{part.name}/") for name in after.keys() - before.keys())
    chunks = {name.split("/")[1] for name in new if name.startswith("maps.zarr/") and "/c/" in name}
    assert chunks == {"target", *(f"{name}{kind}" for name in NAMES for kind in ("", "_range", "_flag"))}
    atlas = Atlas.open(str(made.extended))
    assert atlas.methods == (*FAST, *NAMES)
    same_atlas(atlas, made.all_at_once)


def test_an_extension_is_verified_and_read_like_the_rest(made: World) -> None:
    atlas, other = Atlas.open(str(made.extended)), made.all_at_once
    assert verify(atlas).faults == []
    again = recompute(atlas, 6)
    assert (again.faults, again.maps, again.equal) == ([], 6 * 2 * 5, 6 * 2 * 5)
    assert atlas.to_xarray().equals(other.to_xarray())
    for method in NAMES:
        assert atlas.dataset(method)[3][0].tolist() == other.dataset(method)[3][0].tolist()
        assert atlas.raw("s0006", method, "predicted").tolist() == other.raw("s0006", method, "predicted").tolist()
    assert pickle.loads(pickle.dumps(atlas)).methods == atlas.methods


def test_a_byte_that_changes_in_a_part_is_found(extended: Path) -> None:
    (part,) = Atlas.open(str(extended)).parts
    path = Path(part.objects.url) / "maps.zarr/attn_gradcam/c/1/0/0/0"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = verify(Atlas.open(str(extended)))
    folder = f"parts/{path.parents[6].name}"
    assert [fault.split(": ")[:3] for fault in result.faults] == [
        [folder, "part-1", "maps.zarr/attn_gradcam/c/1/0/0/0"]
    ]
    assert result.damaged == [f"{folder}/part-1"]
    (extended / folder / "commits/part-1.json").unlink()
    path.unlink()
    assert verify(run(str(extended), INLINE)).faults == []
    assert objects_of(extended).keys() == objects_of(path.parents[6].parents[1]).keys()


def policy(*methods: str) -> Policy:
    return Policy(name="p", methods=methods, threshold=Threshold(kind="otsu"), target="label")


def test_what_was_derived_before_stays_and_new_products_use_all_methods(finished: Path, made: World) -> None:
    old, new, other = (finished / "labels" / "old", finished / "labels" / "new", finished.parent / "labels")
    label(Atlas.open(str(finished)), policy("legrad"), ["png"], str(old))
    before = objects_of(old)
    shutil.copytree(made.extended / "parts", finished / "parts")
    atlas = Atlas.open(str(finished))
    label(atlas, policy("legrad"), ["png"], str(old))
    assert objects_of(old) == before
    label(atlas, policy("legrad", *NAMES), ["png"], str(new))
    label(made.all_at_once, policy("legrad", *NAMES), ["png"], str(other))
    assert read_labels(str(new)).drop(["parent"]).equals(read_labels(str(other)).drop(["parent"]))
    products = verify_products(atlas)
    assert (products.faults, len(products.folders)) == ([], 2)
    commit = DerivedCommit.read((new / "commits/part-0.json").read_bytes(), "")
    assert list(commit.parts) == [part.own.run_hash for part in atlas.parts]
    shutil.rmtree(finished / "parts")
    faults = verify_products(Atlas.open(str(finished))).faults
    assert len(faults) == 3
    assert all("was made from maps of a part, or another atlas, that is not there" in fault for fault in faults)


def test_scores_of_methods_in_a_part_are_added_to_those_before(finished: Path, made: World, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image_id,x0,y0,x1,y1\n" + "".join(f"s{n:04d},5,5,20,20\n" for n in range(16)))
    truth, out = read_truth(tmp_path / "boxes.csv"), str(tmp_path / "scores")
    score(Atlas.open(str(finished)), truth, methods=("legrad",), out=out)
    shutil.copytree(made.extended / "parts", finished / "parts")
    atlas = Atlas.open(str(finished))
    table, other = score(atlas, truth, out=out), score(made.all_at_once, truth, out=str(tmp_path / "other"))
    assert table.drop(["source"]).equals(other.drop(["source"]))
    commit = DerivedCommit.read((tmp_path / "scores/commits/part-0.json").read_bytes(), "")
    assert set(commit.items) >= {*FAST, *NAMES}
    assert list(commit.parts) == [part.own.run_hash for part in atlas.parts]


def test_of_two_extends_at_once_the_second_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TIMEOUT", 2.0)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    refused = list[str]()

    def second(extension: Extension) -> None:
        with pytest.raises(RunFailedError) as error:
            extend(str(finished), ["rollout"], options=INLINE)
        refused.append(str(error.value))

    extend(str(finished), ["center"], options=INLINE, on_plan=second)
    assert len(refused) == 1
    assert "is writing to it; wait for its end" in refused[0]
    assert Atlas.open(str(finished)).methods == (*FAST, "center")


def test_only_what_is_missing_is_computed(extended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, plans = objects_of(extended), list[Extension]()
    atlas = extend(str(extended), ("legrad", *ADDED, "center"), options=INLINE, on_plan=plans.append)
    (planned,) = plans
    assert planned.present == ("legrad", *NAMES)
    assert planned.part is not None
    assert tuple(planned.part.methods) == ("center",)
    assert set(atlas.methods) == {*FAST, *NAMES, "center"}
    after = objects_of(extended)
    assert {name: after[name] for name in before} == before
    monkeypatch.setattr("pipeline.run.extend.load_model", None)  # not needed where nothing is missing
    extend(str(extended), ("legrad", *ADDED), options=INLINE)
    assert objects_of(extended) == after


def test_a_method_is_not_read_before_every_finished_shard_has_it(finished: Path) -> None:
    reader = Atlas.open(str(finished))
    with interrupted_at(1, f"2 shards are left; resume with: vitatlas run {finished} "):
        extend(str(finished), ADDED, options=INLINE)
    assert reader.map("s0001", "legrad").shape == Atlas.open(str(finished)).map("s0001", "legrad").shape
    atlas = Atlas.open(str(finished))
    assert atlas.methods == FAST
    assert atlas.select_methods("label") == FAST
    for read in (atlas.map, atlas.raw, atlas.flag):
        with pytest.raises(
            UsageError, match=r"attn_gradcam.* is being added, 1 of 3 shards have its maps; finish it: vit"
        ):
            read("s0001", "attn_gradcam")
    assert (verify(atlas).missing, verify(atlas).faults) == (2, [])
    assert run(str(finished), INLINE).methods == (*FAST, *NAMES)


def test_a_sample_that_is_retried_gets_its_other_maps_too(spec: RunSpec, made: World, tmp_path: Path) -> None:
    out, shard = tmp_path / "atlas", tmp_path / "shards" / "part-1.tar"
    whole, members = shard.read_bytes(), samples(7, 5)
    members[9] = (members[9][0], b"junk")
    write_tar(shard, members)
    plan(spec, str(out))
    run(str(out), INLINE)
    extend(str(out), ADDED, options=INLINE)
    shard.write_bytes(whole)
    with Lease(ObjectStore(str(out))) as held:
        run_under_lease(str(out), INLINE, True, held)  # and not the part
    atlas = Atlas.open(str(out))
    with pytest.raises(
        RunFailedError, match=r"shard part-1 has samples that were retried since its maps of .*attn_gradcam"
    ):
        atlas.shard("part-1").maps("attn_gradcam")
    assert any("part-1 lacks maps of samples that were retried" in fault for fault in verify(atlas).faults)
    same_atlas(run(str(out), INLINE, retry_failed=True), made.all_at_once)
    assert verify(Atlas.open(str(out))).faults == []


def test_an_image_that_has_changed_is_refused(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    run(str(out), INLINE)
    monkeypatch.setattr(SourceRecord, "changes", lambda self, now: [])
    write_tar(tmp_path / "shards" / "part-1.tar", samples(7, 5)[:-3] + samples(1, 30))
    with pytest.raises(RunFailedError) as refused:
        extend(str(out), ["center"], options=INLINE)
    assert "key and image_sha256 and label of s0011, which has maps in the atlas, changed" in refused.value.details[0]
    assert Atlas.open(str(out)).methods == FAST


def test_the_class_is_that_of_the_atlas_where_another_machine_predicts_another(
    finished: Path, made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part does not take the highest logit of its own."""
    predict_first_class(monkeypatch)
    same_atlas(extend(str(finished), ADDED, options=INLINE), made.all_at_once)


@pytest.mark.parametrize(
    ("methods", "says"),
    [((), "there is nothing to add; name methods"), (("legrat",), "there is no method 'legrat'"),
     (("legrad:layers=last2", "legrad:layers=last2"), "is named twice"), (("diffmask",), "diffmask")],
)  # fmt: skip
def test_what_cannot_be_added_is_refused(finished: Path, methods: tuple[str, ...], says: str) -> None:
    before = objects_of(finished)
    with pytest.raises(AtlasError, match=says):
        extend(str(finished), methods, options=INLINE)
    assert objects_of(finished) == before


def test_another_network_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.explain.load.weights_hash", lambda model: "sha256:0")
    with pytest.raises(SpecMismatchError, match=r"model\.weights is"):
        extend(str(finished), ["center"], options=INLINE)
    assert not (finished / "parts").exists()


def test_a_part_in_another_atlas_is_refused(made: World, finished: Path) -> None:
    shutil.copytree(made.extended / "parts", finished / "parts")
    content = (finished / "run.json").read_text().replace('"seed": 0', '"seed": 1')
    record = RunRecord.read(content.encode(), "run.json").sealed()
    (finished / "run.json").write_bytes(record.to_bytes())
    with pytest.raises(RunFailedError, match="extends another atlas than the one it is in"):
        Atlas.open(str(finished))


def test_a_part_that_names_other_shards_is_refused(extended: Path) -> None:
    """It would run a command that nobody has looked at."""
    (path,) = extended.glob("parts/*/run.json")
    content = json.loads(path.read_bytes())
    content["shards"][0]["url"] = "pipe:touch /tmp/owned"
    path.write_bytes(RunRecord.read(json.dumps(content).encode(), "run.json").sealed().to_bytes())
    for command in (Atlas.open, run, lambda url: Atlas.open(path.parent.as_posix()).open_extended()):
        with pytest.raises(AtlasError, match="extends another atlas than the one it is in"):
            command(str(extended))


@pytest.mark.usefixtures("computed_once")
@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.soak)])
def test_a_crash_at_any_moment_of_an_extend_is_mended(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before, after = objects_of(made.before), objects_of(made.extended)
    copies = crashed_copies(made.before, tmp_path, step, monkeypatch, lambda url: extend(url, ADDED, options=INLINE))
    for k, out in copies:
        now = objects_of(out)
        assert {name: now[name] for name in before} == before
        atlas = Atlas.open(str(out))
        assert atlas.methods in (FAST, (*FAST, *NAMES))
        assert verify(atlas).faults == []
        extend(str(out), ADDED, options=INLINE)
        now = objects_of(out)
        assert now.keys() == after.keys()
        assert all(now[name] == data for name, data in after.items() if "/commits/" not in name), k
    assert k > 30
