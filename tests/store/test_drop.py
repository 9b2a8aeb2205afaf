"""Methods are dropped from what an atlas says, then from the store; products that used them are named."""

import io
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import DEMO_MODEL, FAST, crashed_copies, in_one_process, samples, soak_after, write_tar

from pipeline.audit.verify_products import verify_products
from pipeline.demo.train_model import MODEL
from pipeline.explain.artifacts import read_artifact, write_artifact
from pipeline.label import label
from pipeline.label.calibrate import CalibrationSource
from pipeline.rank.rank_atlas import rank_atlas
from pipeline.run import INLINE, run
from pipeline.run.extend import extend, extend_targets
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.drop import drop, plan_drop
from pipeline.store.ranking import read_rankings
from pipeline.store.verify import verify
from pipeline.train.mask_sources import PseudoMaskSource
from pipeline.truth import read_truth
from schemas.errors import UsageError
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec

ADDED = ("center", "rollout")


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of two shards, one sample without maps, to which two methods were added; not to be changed."""
    folder = tmp_path_factory.mktemp("drop")
    members = samples(3)
    members[3] = (members[3][0], b"junk")
    write_tar(folder / "shards" / "a.tar", members)
    write_tar(folder / "shards" / "b.tar", samples(2, 3))
    plan(RunSpec(shards=(f"{folder}/shards/*.tar",), model=checkpoint, methods=FAST, batch_size=2), f"{folder}/atlas")
    run(f"{folder}/atlas", INLINE)
    extend(f"{folder}/atlas", ADDED, options=INLINE)
    return folder / "atlas"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "case",
    soak_after(
        2,
        [
            (["random", "rollout"], ("attention", "legrad", "center")),
            (["rollout", "center"], FAST),
            (["legrad"], ("attention", "random", *ADDED)),
            (["rollout"], (*FAST, "center")),
            ([*FAST], ADDED),
        ],
    ),
)
def test_only_the_objects_of_dropped_methods_are_deleted(copy: Path, case: tuple[list[str], tuple[str, ...]]) -> None:
    methods, left = case
    before, reader = contents(copy), Atlas.open(str(copy))
    planned = plan_drop(str(copy), methods)
    assert contents(copy) == before
    drop(str(copy), methods)
    after = contents(copy)
    records = {f"parts/{name}/run.json" for name in parts(copy, before)}
    assert before.keys() - after.keys() - records == set(planned.objects)
    assert {name.rpartition("/")[2] for name in after.keys() - before.keys()} <= {"dropped.json"}
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert {name.rpartition("maps.zarr/")[2] for name in changed} <= {"zarr.json"}
    atlas = Atlas.open(str(copy))
    assert atlas.methods == left
    assert set(atlas.to_xarray()) - {"target"} == set(atlas.run.arrays)
    for method in left:
        assert atlas.map("s0003", method).tolist() == reader.map("s0003", method).tolist()
    for method in methods:
        with pytest.raises(UsageError, match=f"has no maps of '{method}'"):
            atlas.map("s0003", method)
    assert (verify(atlas).faults, verify(atlas).notes, verify(atlas).missing) == ([], verify(reader).notes, 0)
    assert run(str(copy), INLINE, retry_failed=True).methods == left
    assert verify(Atlas.open(str(copy))).faults == []


def parts(folder: Path, before: dict[str, bytes]) -> set[str]:
    """Parts that are there no more."""
    return {name.split("/")[1] for name in before if name.startswith("parts/")} - {
        path.parent.name for path in folder.glob("parts/*/run.json")
    }


def test_what_was_dropped_can_be_added_again(copy: Path, made: Path) -> None:
    drop(str(copy), ["legrad", *ADDED])
    atlas = extend(str(copy), ["legrad", *ADDED], options=INLINE)
    other = Atlas.open(str(made))
    assert set(atlas.methods) == set(other.methods)
    for array in other.run.arrays:
        for shard in other.shard_names:
            assert atlas.shard(shard).array(array).tobytes() == other.shard(shard).array(array).tobytes(), array
    assert verify(atlas).faults == []


def test_the_status_counts_maps_of_methods_that_are_there(made: Path, tmp_path: Path, vitatlas: Any) -> None:
    """The commits that were written before a method was dropped have counts of its maps, too."""
    url, methods = f"{tmp_path}/atlas", ("legrad", "uniform")
    spec = Atlas.open(str(made)).own.spec
    plan(spec.model_copy(update={"methods": methods, "precision": "bfloat16"}), url)
    run(url, INLINE)
    extend_targets(url, ["predicted"], INLINE)
    before = json.loads(vitatlas("status", url, "--json")[1])
    assert (before["degenerate"], before["drift"].keys()) == ({"uniform": 2 * 4}, {*methods})
    drop(url, ["uniform"])
    dropped = json.loads(vitatlas("status", url, "--json")[1])
    assert (dropped["degenerate"], dropped["drift"].keys()) == ({}, {"legrad"})
    extend(url, ["uniform"], options=INLINE)
    again = json.loads(vitatlas("status", url, "--json")[1])
    assert (again["degenerate"], again["drift"]) == (before["degenerate"], before["drift"])


def test_products_of_dropped_methods_refuse_it_or_are_named_by_verify(copy: Path) -> None:
    def policy(name: str, *methods: str) -> Policy:
        return Policy(name=name, methods=methods, threshold=Threshold(kind="otsu"))

    with in_one_process():
        for name, methods in (("own", ["legrad"]), ("part", ["rollout"]), ("other", ["attention"])):
            label(Atlas.open(str(copy)), policy(name, *methods), ["png"], str(copy / "labels" / name))
    products = plan_drop(str(copy), ["legrad", "rollout"]).products
    assert products == {"labels/own": ("legrad",), "labels/part": ("rollout",)}
    before = contents(copy)
    with pytest.raises(UsageError, match="labels/own, labels/part: made from maps of legrad, rollout; remove"):
        drop(str(copy), ["legrad", "rollout"])
    assert contents(copy) == before
    drop(str(copy), ["legrad", "rollout"], leave_products=True)
    faults = verify_products(Atlas.open(str(copy))).faults
    assert [fault for fault in faults if "was made from maps of legrad, which were dropped; remove it" in fault]
    assert all(fault.startswith(("labels/own", "labels/part")) for fault in faults)
    assert any(fault.startswith("labels/part") for fault in faults)


def test_masks_and_verdicts_of_another_artifact_are_made_again(tmp_path: Path) -> None:
    """The method has its name and its settings, the atlas its own commits, as before."""
    url, own, other = f"{tmp_path}/atlas", str(MODEL / "gates.safetensors"), tmp_path / "gates.safetensors"
    trained = read_artifact(own)
    write_artifact(other, {name: -tensor for name, tensor in trained.tensors.items()}, trained.record)
    write_tar(tmp_path / "a.tar", samples(2))
    changes = {"shards": (f"{tmp_path}/a.tar",), "model": DEMO_MODEL, "targets": ("predicted",)}
    plan(RunSpec(methods=("legrad", "center"), artifacts=(own,), **changes), url)
    policies = {
        name: Policy(name=name, methods=(name,), threshold=Threshold(kind="otsu"), target="predicted")
        for name in ("diffmask", "legrad")
    }

    def made(name: str, out: str) -> list[bytes]:
        label(Atlas.open(url), policies[name], ["png"], f"{tmp_path}/{out}")
        return [path.read_bytes() for path in sorted((tmp_path / out).glob("png/*.tar"))]

    for name, data in samples(2):
        if name.endswith(".jpg"):
            mask = Image.new("L", Image.open(io.BytesIO(data)).size)
            mask.paste(1, (0, 0, mask.width // 2, mask.height // 2))
            (tmp_path / "truth" / name).parent.mkdir(parents=True, exist_ok=True)
            mask.save(tmp_path / "truth" / name.replace(".jpg", ".png"))
    calibrated = policies["diffmask"].model_copy(update={"threshold": Threshold(kind="calibrated")})

    def tuned() -> Policy:
        source = CalibrationSource(read_truth(tmp_path / "truth"))
        return label(Atlas.open(url), calibrated, ["png"], f"{tmp_path}/tuned", source).policy

    def to_train_on() -> dict[str, str]:
        return {name: PseudoMaskSource(Atlas.open(url), policy).description for name, policy in policies.items()}

    def ranked(url: str) -> dict[str, Any]:
        (ranking,) = read_rankings(Atlas.open(url), "predicted")
        return {row.method: row.signals for row in ranking.methods}

    with in_one_process():
        run(url, INLINE)
        before, kept = made("diffmask", "masks"), made("legrad", "atlas/labels/legrad")
        made("diffmask", "atlas/labels/diffmask")
        assert tuned() == tuned()
        trained_on = to_train_on()
        rank_atlas(Atlas.open(url), target="predicted")
        signals = ranked(url)
        assert set(signals) == {"diffmask", "legrad", "center"}
        drop(url, ["diffmask"], leave_products=True)
        atlas = extend(url, [], [str(other)], INLINE)
        (fault,) = verify_products(atlas).faults
        assert ranked(url) == {name: signals[name] for name in ("legrad", "center")}
        rank_atlas(atlas, target="predicted")
        assert ranked(url)["diffmask"] != signals["diffmask"]
        assert fault.startswith("labels/diffmask/commits/a.json: was made from maps of a part")
        assert made("diffmask", "masks") == made("diffmask", "anew") != before
        with pytest.raises(UsageError, match=r"holds something else \(tuned"):  # its threshold is of other maps
            tuned()
        assert [name for name, masks in to_train_on().items() if masks == trained_on[name]] == ["legrad"]
        assert made("legrad", "atlas/labels/legrad") == kept


@pytest.mark.parametrize(
    ("methods", "says"),
    [((), "nothing to drop"), (("legrat",), "has no maps of 'legrat'"), ((*FAST, *ADDED), "would have no method left")],
)
def test_what_cannot_be_dropped_is_refused(copy: Path, methods: tuple[str, ...], says: str) -> None:
    before = contents(copy)
    with pytest.raises(UsageError, match=says):
        drop(str(copy), methods)
    assert contents(copy) == before


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("methods", [("legrad", "rollout"), ADDED])
def test_a_crash_at_any_moment_of_a_drop_is_mended(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: tuple[str, ...], step: int
) -> None:
    done = Path(shutil.copytree(made, tmp_path / "done"))
    drop(str(done), methods)
    for k, out in crashed_copies(made, tmp_path, step, monkeypatch, lambda url: drop(url, methods)):
        assert [fault for fault in verify(Atlas.open(str(out))).faults if "zarr.json" not in fault] == []
        with suppress(UsageError):  # all of it was done, and the methods are not known any more
            drop(str(out), methods)
        (out / "lease.json").unlink(missing_ok=True)
        assert contents(out) == contents(done), k
    assert k > 9


def test_the_command_shows_what_it_deletes(copy: Path, vitatlas: Any) -> None:
    before = contents(copy)
    code, out, _ = vitatlas("drop", copy, "--methods", "legrad", "--dry-run")
    assert (code, contents(copy)) == (0, before)
    assert "objects  9 of " in out
    assert "would be deleted" in out
    code, out, _ = vitatlas("drop", copy, "--methods", "legrad", "--json")
    assert (code, json.loads(out)["objects"], json.loads(out)["products"]) == (0, 9, {})
    assert vitatlas("verify", copy, "--recompute", "1")[0] == 0
    assert vitatlas("status", copy)[0] == 0
    code, _, error = vitatlas("drop", copy, "--methods", "legrat")
    assert (code, error.count("\n")) == (2, 1)
