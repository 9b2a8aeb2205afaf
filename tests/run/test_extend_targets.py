"""Targets are added to an atlas by a part: tables and maps are those of an atlas planned with all targets at once."""

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from support import (
    FAST,
    crashed_copies,
    in_one_process,
    interrupted_at,
    jpeg,
    objects_of,
    predict_first_class,
    same_atlas,
    samples,
    soak_after,
    write_tar,
)

from pipeline.audit.completeness import build_completeness_table
from pipeline.audit.verify_products import verify_products
from pipeline.explain.explainer import Explainer
from pipeline.label import label, read_labels
from pipeline.run import INLINE, run
from pipeline.run.append import append
from pipeline.run.extend import extend, extend_targets
from pipeline.run.plan import plan
from pipeline.run.recompute_maps import recompute
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.store.drop import drop
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.errors import AtlasError, RunFailedError, SpecMismatchError, UsageError
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord

METHODS = ("attention", "legrad", "reciprocam")
"""Of each kind: by image, by class one after another, and by all classes together."""
SHARDS = (samples(5, 0), [*samples(4, 5), ("bad.jpg", b"junk"), ("bad.cls", b"1")])


@dataclass(frozen=True)
class World:
    """An atlas of one target, the same after another was added, and one planned with both."""

    folder: Path
    spec: RunSpec

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, name: str, **changes: Any) -> Atlas:
        plan(self.spec.model_copy(update=changes), self.path(name))
        return run(self.path(name), INLINE)


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("targets")
    for index, members in enumerate(SHARDS):
        write_tar(folder / "shards" / f"part-{index}.tar", members)
    spec = RunSpec(
        shards=(f"{folder}/shards/*.tar",), model=checkpoint, methods=METHODS, batch_size=4, targets=("label",)
    )
    world = World(folder, spec)
    with in_one_process():
        world.run("before")
        world.run("both", targets=("label", "predicted"))
        shutil.copytree(folder / "before", folder / "extended")
        extend_targets(world.path("extended"), ["predicted"], INLINE)
    return world


@pytest.fixture
def finished(made: World, tmp_path: Path) -> Path:
    """A copy of the atlas as it was before."""
    return Path(shutil.copytree(made.path("before"), tmp_path / "atlas"))


@pytest.fixture
def extended(made: World, tmp_path: Path) -> Path:
    """A copy of the extended atlas."""
    return Path(shutil.copytree(made.path("extended"), tmp_path / "extended"))


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with in_one_process():
        yield


def test_adding_targets_writes_only_a_part_and_gives_the_atlas_of_one_plan(made: World) -> None:
    before, after = objects_of(made.folder / "before"), objects_of(made.folder / "extended")
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("parts/") for name in after.keys() - before.keys())
    extended, both = Atlas.open(made.path("extended")), Atlas.open(made.path("both"))
    assert extended.run.run_hash == Atlas.open(made.path("before")).run.run_hash
    same_atlas(extended, both)
    assert extended.samples().equals(both.samples())
    assert extended.to_xarray().equals(both.to_xarray())
    for target in ("label", "predicted"):
        assert extended.raw("s0006", "legrad", target).tolist() == both.raw("s0006", "legrad", target).tolist()
        assert extended.dataset("legrad", target)[3][0].tolist() == both.dataset("legrad", target)[3][0].tolist()
    assert pickle.loads(pickle.dumps(extended)).run.spec.target_names == ("label", "predicted")


def test_added_targets_are_verified_and_recomputed_like_the_rest(extended: Path) -> None:
    atlas = Atlas.open(str(extended))
    assert verify(atlas).faults == []
    again = recompute(atlas, 6)
    assert (again.faults, again.maps, again.equal) == ([], 6 * 2 * len(METHODS), 6 * 2 * len(METHODS))
    path = next(extended.glob("parts/*/maps.zarr/legrad/c/1/0/0/0"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert verify(atlas).damaged == [f"parts/{path.parents[6].name}/part-1"]


@pytest.mark.parametrize(
    "kinds",
    soak_after(
        1,
        [
            (("predicted",), ("label:2", "class:3")),
            (("predicted",), ("label",)),
            (("label:2",), ("top:2",)),
            (("label", "class:7"), ("predicted", "class:3")),
        ],
    ),
)
def test_tables_and_maps_are_those_of_one_plan_for_every_kind_of_target(
    made: World, tmp_path: Path, kinds: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    first, added = kinds
    members = samples(9, 0)
    members[4] = (members[4][0], b"1\n3") if added[0] == "label:2" or first[0] == "label:2" else members[4]
    write_tar(tmp_path / "shards" / "a.tar", members)
    spec = made.spec.model_copy(update={"shards": (f"{tmp_path}/shards/a.tar",), "methods": ("legrad", "random")})
    for name, targets in (("one", first), ("both", (*first, *added))):
        plan(spec.model_copy(update={"targets": targets}), str(tmp_path / name))
        run(str(tmp_path / name), INLINE)
    atlas = extend_targets(str(tmp_path / "one"), added, INLINE)
    same_atlas(atlas, Atlas.open(str(tmp_path / "both")))
    assert verify(atlas).faults == []


@pytest.mark.soak
def test_targets_are_added_after_and_before_methods_and_shards(finished: Path, made: World, tmp_path: Path) -> None:
    """In any order, also where methods are dropped between; the sets are never incomplete."""
    url = str(finished)
    extend(url, ["attn_gradcam"], options=INLINE)  # of which maps are copied, also those of shards that are added
    extend_targets(url, ["class:3"], INLINE)
    with pytest.raises(UsageError, match="has class:3 already, which class:3,5 includes; name only the others"):
        extend_targets(url, ["class:3,5"], INLINE)
    extend(url, ["rollout"], options=INLINE)
    write_tar(tmp_path / "more" / "more.tar", samples(4, 30))
    append(url, [f"{tmp_path}/more/more.tar"], INLINE)
    extend_targets(url, ["predicted"], INLINE)
    drop(url, ["legrad"])
    extend(url, ["legrad"], options=INLINE)
    drop(url, ["attention"])
    atlas = Atlas.open(url)
    assert verify(atlas).faults == []
    assert atlas.run.spec.target_names == ("label", "class:3", "predicted")
    methods = ("legrad", "reciprocam", "attn_gradcam", "rollout")
    everything = made.spec.model_copy(
        update={
            "shards": (*made.spec.shards, f"{tmp_path}/more/more.tar"),
            "methods": methods,
            "targets": ("label", "class:3", "predicted"),
        }
    )
    plan(everything, str(tmp_path / "all"))
    same_atlas(atlas, run(str(tmp_path / "all"), INLINE))
    drop(url, [name for name in atlas.methods if name != "rollout"])  # the parts of further targets have none left
    atlas = Atlas.open(url)
    assert (atlas.methods, atlas.run.spec.target_names) == (("rollout",), ("label", "class:3", "predicted"))
    assert (
        atlas.map("s0006", "rollout", "predicted").tolist()
        == Atlas.open(str(tmp_path / "all")).map("s0006", "rollout", "predicted").tolist()
    )
    assert verify(atlas).faults == []


@pytest.mark.soak
def test_products_of_before_stay_valid_and_new_ones_use_all_targets(
    finished: Path, made: World, tmp_path: Path
) -> None:
    old, new, other = finished / "labels" / "old", finished / "labels" / "new", tmp_path / "labels"
    policy = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu"), target="label")
    label(Atlas.open(str(finished)), policy, ["png"], str(old))
    before = objects_of(old)
    shutil.copytree(made.folder / "extended" / "parts", finished / "parts")
    atlas, both = Atlas.open(str(finished)), Atlas.open(made.path("both"))
    label(atlas, policy, ["png"], str(old))
    assert objects_of(old) == before
    predicted = policy.model_copy(update={"target": "predicted"})
    label(atlas, predicted, ["png"], str(new))
    label(both, predicted, ["png"], str(other))
    assert read_labels(str(new)).drop(["parent"]).equals(read_labels(str(other)).drop(["parent"]))
    masks, expected = ([path.read_bytes() for path in sorted(each.glob("png/*.tar"))] for each in (new, other))
    assert len(masks) == len(SHARDS)
    assert masks == expected
    assert verify_products(atlas).faults == []
    (tmp_path / "boxes.csv").write_text("image_id,x0,y0,x1,y1\n" + "".join(f"s{n:04d},5,5,20,20\n" for n in range(9)))
    truth = read_truth(tmp_path / "boxes.csv")
    tables = [score(each, truth, "predicted", out=f"{tmp_path}/{n}") for n, each in enumerate((atlas, both))]
    assert tables[0].drop(["source"]).equals(tables[1].drop(["source"]))
    shutil.rmtree(finished / "parts")
    assert any("new" in fault for fault in verify_products(Atlas.open(str(finished))).faults)


def test_a_target_is_not_read_before_every_finished_shard_has_it(finished: Path, made: World) -> None:
    with interrupted_at(1, f"1 shards are left; resume with: vitatlas run {finished} "):
        extend_targets(str(finished), ["predicted"], INLINE)
    atlas = Atlas.open(str(finished))
    assert atlas.run.spec.target_names == ("label",)
    assert atlas.samples().equals(Atlas.open(made.path("before")).samples())
    with pytest.raises(UsageError, match="predicted is being added, 1 of 2 shards have its maps; finish it: vitatlas"):
        atlas.map("s0001", "legrad", "predicted")
    extend(str(finished), ["center"], options=INLINE)  # which finishes it first
    atlas = Atlas.open(str(finished))
    assert atlas.run.spec.target_names == ("label", "predicted")
    assert atlas.map("s0001", "center", "predicted").shape == (10, 10)
    assert verify(atlas).faults == []


@pytest.mark.soak
def test_a_sample_that_is_retried_gets_its_other_targets_too(made: World, tmp_path: Path) -> None:
    out, shard = tmp_path / "atlas", tmp_path / "shards" / "part-1.tar"
    members = samples(7, 5)
    write_tar(shard, [*members[:9], (members[9][0], b"junk"), *members[10:]])
    spec = made.spec.model_copy(update={"shards": (str(shard),), "methods": FAST})
    plan(spec, str(out))
    run(str(out), INLINE)
    extend_targets(str(out), ["predicted"], INLINE)
    extend(str(out), ["center"], options=INLINE)
    write_tar(shard, members)
    atlas = run(str(out), INLINE, retry_failed=True)
    assert verify(atlas).faults == []
    plan(spec.model_copy(update={"targets": ("label", "predicted"), "methods": (*FAST, "center")}), f"{tmp_path}/both")
    same_atlas(atlas, run(f"{tmp_path}/both", INLINE))


@pytest.mark.parametrize(
    ("targets", "says"),
    [((), "there is nothing to add; name targets"), (("text",), "target text needs a text of every image"),
     (("label:2",), "label:2 reads the same labels"), (("class:77",), "class 77: the network has classes 0 … 9"),
     (("top:99",), "top:99"), (("predictet",), "no target kind 'predictet'"),
     (("class:3", "class:3"), "class:3 is named twice")],
)  # fmt: skip
def test_what_cannot_be_added_is_refused(finished: Path, targets: tuple[str, ...], says: str) -> None:
    before = objects_of(finished)
    with pytest.raises(AtlasError, match=says):
        extend_targets(str(finished), targets, INLINE)
    assert objects_of(finished) == before


def test_two_readings_of_labels_and_further_shards_without_are_refused(made: World, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples(3))
    spec = made.spec.model_copy(update={"shards": (f"{tmp_path}/a.tar",), "methods": FAST, "targets": ("predicted",)})
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    with pytest.raises(UsageError, match="label:2 reads the same labels"):
        extend_targets(str(tmp_path / "atlas"), ["label", "label:2"], INLINE)
    assert not (tmp_path / "atlas" / "parts").exists()
    extend_targets(str(tmp_path / "atlas"), ["label"], INLINE)
    write_tar(tmp_path / "b.tar", [*samples(2, 5), ("z.jpg", jpeg(9))])
    with pytest.raises(UsageError, match=r"1 samples have no label .*, and labels were added to the targets"):
        append(str(tmp_path / "atlas"), [f"{tmp_path}/b.tar"], INLINE)


def test_labels_that_not_every_image_has_are_refused(made: World, tmp_path: Path) -> None:
    members = samples(3)
    write_tar(tmp_path / "a.tar", [*members, ("z.jpg", jpeg(9))])
    spec = made.spec.model_copy(update={"shards": (f"{tmp_path}/a.tar",), "methods": FAST, "targets": ("predicted",)})
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    with pytest.raises(UsageError, match="1 of 4 images with maps have no usable label; plan another atlas"):
        extend_targets(str(tmp_path / "atlas"), ["label"], INLINE)
    assert not (tmp_path / "atlas" / "parts").exists()


def test_the_command_adds_targets_and_status_tells_its_progress(finished: Path, made: World, vitatlas: Any) -> None:
    code, text, _ = vitatlas("extend", finished, "--targets", "predicted", "--dry-run")
    assert code == 0
    assert "targets  predicted\n" in text
    assert not (finished / "parts").exists()
    code, text, _ = vitatlas("extend", finished, "--targets", "predicted", "--executor", "inline")
    assert code == 0
    assert (
        f"complete {finished} has maps of {', '.join(Atlas.open(str(finished)).methods)}, for label, predicted" in text
    )
    code, text, _ = vitatlas("status", finished)
    assert "for predicted: 2 of 2 shards are done" in text
    code, text, _ = vitatlas("extend", finished, "--targets", "predicted", "--json")
    planned = json.loads(text)
    assert (code, planned["part"], planned["present"], planned["targets"]) == (
        0, None, ["predicted"], ["label", "predicted"],
    )  # fmt: skip
    code, _, error = vitatlas("extend", finished, "--targets", "top:2", "--methods", "center")
    assert code == 2
    assert "--targets computes all methods of the atlas" in error


def test_only_maps_of_other_classes_are_computed(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, compute = list[int](), Explainer._compute

    def counted(self: Explainer, trace: Any, targets: Any, methods: tuple[Any, ...]) -> Any:
        computed.append(len(targets) * (methods == self.one_class_methods))
        return compute(self, trace, targets, methods)

    monkeypatch.setattr(Explainer, "_compute", counted)
    atlas = extend_targets(str(finished), ["predicted", "class:3"], INLINE)
    classes = [set(row) - {None} for row in atlas.samples_with_maps(["target_classes"])["target_classes"].to_pylist()]
    assert sum(computed) == sum(len(of_image) - 1 for of_image in classes)  # those of the label are there
    assert 0 < sum(computed) < 2 * len(classes)


def test_the_prediction_is_that_of_the_atlas_where_another_machine_predicts_another(
    finished: Path, made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_first_class(monkeypatch)
    same_atlas(extend_targets(str(finished), ["predicted"], INLINE), Atlas.open(made.path("both")))


def test_copied_maps_in_half_precision_keep_their_known_error(made: World, tmp_path: Path) -> None:
    """All are copied where every label is the prediction."""
    predicted = Atlas.open(made.path("before")).samples_with_maps(["prediction"])["prediction"].to_pylist()
    images = [member for member in SHARDS[0] if member[0].endswith(".jpg")]
    labels = [
        (name.replace(".jpg", ".cls"), b"%d" % label) for (name, _), label in zip(images, predicted, strict=False)
    ]
    write_tar(tmp_path / "a.tar", [member for pair in zip(images, labels, strict=True) for member in pair])
    changes = {"shards": (f"{tmp_path}/a.tar",), "precision": "bfloat16"}
    for name, targets in (("one", ("label",)), ("both", ("label", "predicted"))):
        plan(made.spec.model_copy(update=changes | {"targets": targets}), str(tmp_path / name))
        run(str(tmp_path / name), INLINE)
    atlas, both = extend_targets(str(tmp_path / "one"), ["predicted"], INLINE), Atlas.open(str(tmp_path / "both"))
    errors = [each.shard("a").commit_of("legrad", "predicted").drift["legrad"] for each in (atlas, both)]
    assert errors[0] == errors[1] > 0


@pytest.mark.usefixtures("computed_once")
@pytest.mark.parametrize("step", [60, pytest.param(1, marks=pytest.mark.soak)])
def test_a_crash_at_any_moment_is_mended(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before, after = objects_of(made.folder / "before"), objects_of(made.folder / "extended")
    copies = crashed_copies(
        made.folder / "before", tmp_path, step, monkeypatch, lambda url: extend_targets(url, ["predicted"], INLINE)
    )
    for k, out in copies:
        now = objects_of(out)
        assert {name: now[name] for name in before} == before
        atlas = Atlas.open(str(out))
        assert atlas.run.spec.target_names in (("label",), ("label", "predicted"))
        assert verify(atlas).faults == []
        extend_targets(str(out), ["predicted"], INLINE)
        now = objects_of(out)
        assert now.keys() == after.keys()
        assert all(now[name] == data for name, data in after.items() if "/commits/" not in name), k
    assert k > 30


def test_a_part_alone_has_its_own_targets_and_is_not_recomputed(made: World, tmp_path: Path, vitatlas: Any) -> None:
    (part,) = Atlas.open(made.path("extended")).parts
    alone, both = Atlas.open(part.objects.url), Atlas.open(made.path("both"))
    assert alone.map("s0006", "legrad", "predicted").tolist() == both.map("s0006", "legrad", "predicted").tolist()
    assert (
        alone.shard("part-0").maps("legrad", "predicted").tolist()
        == both.shard("part-0").maps("legrad", "predicted").tolist()
    )
    with pytest.raises(UsageError, match="has no target 'label'; it has predicted"):
        alone.map("s0006", "legrad", "label")
    with pytest.raises(UsageError, match="is a part with some targets of an atlas; name that atlas"):
        recompute(alone, 1)
    assert vitatlas("audit", alone.url, "--maps-only", "--target", "predicted", "--out", tmp_path / "audit")[0] == 0
    maps = build_completeness_table(alone).filter(pc.field("kind") == "maps")
    assert maps["expected"].to_pylist() == len(METHODS) * [5] + len(METHODS) * [4]


def test_only_a_part_may_leave_out_targets_and_only_those_of_its_atlas(extended: Path) -> None:
    (part,) = extended.glob("parts/*/run.json")
    for path, first, says in (
        (part, 2, "extends another atlas"),
        (extended / "run.json", 1, "first_target leaves out"),
    ):
        content = path.read_bytes()
        record = RunRecord.read(content, "").model_copy(update={"first_target": first}).sealed()
        path.write_bytes(record.to_bytes())
        with pytest.raises(RunFailedError, match=says):
            Atlas.open(str(extended))
        path.write_bytes(content)


def test_plans_of_before_and_of_all_targets_are_still_the_plan(made: World) -> None:
    for targets in (("label",), ("label", "predicted")):
        assert plan(made.spec.model_copy(update={"targets": targets}), made.path("extended")).run_hash
    with pytest.raises(SpecMismatchError, match="targets"):
        plan(made.spec.model_copy(update={"targets": ("predicted",)}), made.path("extended"))


@pytest.mark.soak
def test_atlases_of_two_lists_are_joined_where_targets_were_added_to_one(made: World, tmp_path: Path) -> None:
    write_tar(tmp_path / "more.tar", samples(3, 20))
    spec = made.spec.model_copy(update={"shards": (f"{tmp_path}/more.tar",), "targets": ("label", "predicted")})
    plan(spec, str(tmp_path / "more"))
    run(str(tmp_path / "more"), INLINE)
    extended, both = (Atlas.open([made.path(name), str(tmp_path / "more")]) for name in ("extended", "both"))
    assert extended.samples().equals(both.samples())
    for key in ("s0006", "s0021"):
        assert extended.map(key, "legrad", "predicted").tolist() == both.map(key, "legrad", "predicted").tolist()
    with pytest.raises(UsageError, match=r"no image is in both.*spec\.targets"):
        Atlas.open([made.path("before"), str(tmp_path / "more")])
