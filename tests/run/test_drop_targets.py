"""Methods are dropped where targets were added: those that are left, or added again, keep all targets."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import FAST, crashed_copies, predict_first_class, same_atlas, samples, write_tar

from pipeline.run import INLINE, run
from pipeline.run.append import append
from pipeline.run.extend import extend, extend_targets
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.drop import drop
from pipeline.store.verify import verify
from schemas.errors import UsageError
from schemas.run import ModelSpec, RunSpec

TARGETS = ("label", "predicted")


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an atlas to which a target was added, and then a method; not to be changed."""
    folder = tmp_path_factory.mktemp("drop_targets")
    members = samples(6)
    write_tar(folder / "shards" / "a.tar", [*members[:7], (members[7][0], b"1"), *members[8:]])
    write_tar(folder / "later" / "b.tar", samples(4, 6))
    plan(spec(folder, checkpoint, methods=FAST, targets=("label",), shards=("shards/a.tar",)), f"{folder}/atlas")
    run(f"{folder}/atlas", INLINE)
    extend_targets(f"{folder}/atlas", ["predicted"], INLINE)
    extend(f"{folder}/atlas", ["rollout"], options=INLINE)
    return folder


def spec(folder: Path, model: ModelSpec, shards: tuple[str, ...], **changes: Any) -> RunSpec:
    return RunSpec(shards=tuple(f"{folder}/{shard}" for shard in shards), model=model, batch_size=4, **changes)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "atlas", tmp_path / "copy"))


def test_methods_and_shards_are_added_where_none_is_left_of_those_that_got_a_target(
    made: Path, copy: Path, checkpoint: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vitatlas: Any
) -> None:
    plan(
        spec(made, checkpoint, ("shards/a.tar", "later/b.tar"), methods=("rollout", "legrad"), targets=TARGETS),
        f"{tmp_path}/all",
    )
    whole = run(f"{tmp_path}/all", INLINE)
    drop(str(copy), FAST)
    assert (Atlas.open(str(copy)).methods, verify(Atlas.open(str(copy))).faults) == (("rollout",), [])
    assert dict(Atlas.open(str(copy)).to_xarray()["rollout"].sizes)["target"] == 2
    append(str(copy), [f"{made}/later/b.tar"], INLINE)
    predict_first_class(monkeypatch)  # the classes are those of the tables
    atlas = extend(str(copy), ["legrad"], options=INLINE)
    assert atlas.run.spec.target_names == TARGETS
    same_atlas(atlas, whole)
    assert verify(atlas).faults == []
    code, text, _ = vitatlas("status", copy)
    assert (code, "part     no method for predicted: 2 of 2 shards are done\n" in text) == (0, True)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_what_is_dropped_is_not_added_again_before_its_end(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Else the maps of added targets could be those of another artifact."""
    refused = 0
    copies = crashed_copies(made / "atlas", tmp_path, step, monkeypatch, lambda url: drop(url, ["legrad"]))
    for _, out in copies:
        (out / "lease.json").unlink(missing_ok=True)
        atlas = Atlas.open(str(out))
        assert [fault for fault in verify(atlas).faults if "zarr.json" not in fault] == []
        if "legrad" not in atlas.own.methods and any("legrad" in part.own.methods for part in atlas.parts):
            with pytest.raises(UsageError, match=f"legrad is being dropped; finish it: vitatlas drop {out} --methods"):
                extend(str(out), ["legrad"], options=INLINE)
            refused += 1
    assert refused
