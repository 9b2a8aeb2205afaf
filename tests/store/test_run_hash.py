"""A record of a run that is not the one that was planned is refused, by its own hash, its commits or its network."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.train_model import MODEL
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.commits import DerivedCommit
from schemas.errors import AtlasError, RunFailedError, SpecMismatchError
from schemas.model import ModelRecord
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord

NOT_HASHED = {"format", "versions"}


@pytest.fixture
def folder(atlas: Atlas, tmp_path: Path) -> Path:
    return Path(shutil.copytree(atlas.objects.url, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None], seal: bool = False) -> None:
    """Change a run.json by hand; with a seal, as somebody does who also computes the hashes again."""
    path = folder / "run.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    if seal:
        path.write_bytes(RunRecord.read(path.read_bytes(), "run.json").sealed().to_bytes())


def add_to_mean(content: dict[str, Any]) -> None:
    content["model"]["mean"][0] += 0.1


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values that are no mappings or lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from leaves(inner, (*path, name))
    if not isinstance(value, dict | list):
        yield path


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return "x" if value is None else value + ("x" if isinstance(value, str) else 1)


def test_each_value_that_is_changed_is_named(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_bytes())
    paths = [path for path in leaves(content) if path[0] not in NOT_HASHED]
    assert {("model", "std", 2), ("model", "crop_pct"), ("shards", 1, "size"), ("slot",), ("run_hash",)} <= set(paths)
    for path in paths:
        edited = copy.deepcopy(content)
        inner: Any = edited
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = other(inner[path[-1]])
        (folder / "run.json").write_text(json.dumps(edited))
        with pytest.raises(AtlasError) as refusal:
            Atlas.open(str(folder))
        field = str(refusal.value).removeprefix(f"{folder}/run.json: ").split()[0].strip(":,")
        names = path[1:] if path[0] == "hashes" else path
        dotted = ".".join(str(name) for name in names)
        column = ".".join(str(name) for name in names if not isinstance(name, int))
        assert dotted.startswith(field) or column.startswith(field), (path, refusal.value)


@pytest.mark.parametrize("name", ["methods", "extra_outputs", "artifacts", "provenance", "shards"])
def test_what_is_added_or_left_out_is_named(folder: Path, name: str) -> None:
    def change(content: dict[str, Any]) -> None:
        if name == "shards":
            content["shards"].pop()
        else:
            content[name]["more"] = {} if name == "methods" else [] if name == "extra_outputs" else "x"

    edit(folder, change)
    with pytest.raises(RunFailedError, match=rf"run\.json: {name}.* been changed since the atlas was planned; restore"):
        Atlas.open(str(folder))


@pytest.mark.parametrize(
    "command",
    ["run", "verify", "status", "status --watch", "label --policy {policy} --format png --out {out}",
     "score --truth {truth}", "audit --out {out}", "run --executor inline --retry-failed"],
)  # fmt: skip
def test_every_command_refuses_a_record_that_was_changed(folder: Path, tmp_path: Path, vitatlas, command: str) -> None:
    edit(folder, add_to_mean)
    (tmp_path / "policy.yaml").write_text("{name: p, methods: [legrad], threshold: {kind: otsu}}")
    name, *options = command.format(policy=tmp_path / "policy.yaml", out=tmp_path / "out", truth=tmp_path).split()
    before = sorted(folder.rglob("*"))
    code, _, error = vitatlas(name, folder, *options)
    assert (code, error.count("\n")) == (1, 1)
    assert "run.json: model.mean has been changed since the atlas was planned; restore the file, or" in error
    assert sorted(folder.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_a_record_with_new_hashes_is_refused_by_its_commits_and_nothing_is_computed(folder: Path, vitatlas) -> None:
    edit(folder, add_to_mean, seal=True)
    (folder / "commits" / "demo-validation-00.json").unlink()
    before = sorted(folder.rglob("*"))
    for name, *options in (("run", "--executor", "inline"), ("status",), ("verify", "--recompute", "0")):
        code, out, error = vitatlas(name, folder, *options)
        assert code == 1
        assert "commits/demo-validation-01.json: was computed by run sha256:" in out + error
    assert sorted(folder.rglob("*")) == before


def test_a_record_with_new_hashes_and_no_commits_is_refused_by_the_network(folder: Path) -> None:
    edit(folder, add_to_mean, seal=True)
    shutil.rmtree(folder / "commits")
    says = r"model\.mean is \[0\.6, 0\.5, 0\.5\], not \[0\.5, 0\.5, 0\.5\]; restore"
    with pytest.raises(SpecMismatchError, match=says):
        run(str(folder), INLINE)
    assert not (folder / "commits").exists()


def test_other_shards_under_new_hashes_are_refused_by_the_commits(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["shards"][0]["url"], content["shards"][1]["url"] = (shard["url"] for shard in content["shards"][::-1])

    (folder / "commits" / "demo-validation-01.json").unlink()
    edit(folder, change, seal=True)
    with pytest.raises(RunFailedError, match=r"demo-validation-00\.json: was computed by run"):
        run(str(folder), INLINE)


def test_a_network_whose_constructor_got_other_arguments_is_refused(spec: RunSpec, tmp_path: Path) -> None:
    """The weights of one with other heads fit as well."""
    network = tmp_path / "network"
    shutil.copytree(MODEL, network)
    spec = spec.model_copy(update={"model": ModelSpec(name=f"local-dir:{network}", pretrained=True)})
    plan(spec, str(tmp_path / "atlas"))
    config = network / "config.json"
    config.write_text(config.read_text().replace('"num_heads": 4', '"num_heads": 2'))
    with pytest.raises(SpecMismatchError, match=r"model\.options\.num_heads is 4, not 2"):
        run(str(tmp_path / "atlas"), INLINE)


def test_methods_with_other_options_than_this_version_computes_are_refused(folder: Path) -> None:
    """Under new hashes, or because the default of an option is another one in this version."""
    edit(folder, lambda content: content["methods"]["legrad"].update(score="softmax"), seal=True)
    shutil.rmtree(folder / "commits")
    with pytest.raises(SpecMismatchError, match=r"methods\.legrad\.score is 'softmax', not 'logit'; use the version"):
        run(str(folder), INLINE)


def test_a_reader_that_was_pickled_does_not_open_another_atlas(folder: Path) -> None:
    pickled = pickle.dumps(Atlas.open(str(folder)))
    edit(folder, add_to_mean, seal=True)
    with pytest.raises(RunFailedError, match="has been planned anew"):
        pickle.loads(pickled)


def test_a_commit_whose_counts_were_changed_is_refused(folder: Path) -> None:
    path = folder / "commits" / "demo-validation-00.json"
    content = json.loads(path.read_text())
    for change in ({"rows": 23}, {"ok": 23}, {"statuses": {"ok": 23}}, {"rows": 9, "ok": 9, "statuses": {"ok": 9}}):
        path.write_text(json.dumps(content | change))
        with pytest.raises(RunFailedError, match=r"00\.json: its counts do not fit the plan or one another; remove it"):
            Atlas.open(str(folder)).shard("demo-validation-00")


def test_a_sample_table_that_was_changed_is_refused_where_it_is_read(folder: Path) -> None:
    first, second = (folder / "samples" / f"demo-validation-0{index}.parquet" for index in (0, 1))
    shutil.copyfile(first, second)
    atlas = Atlas.open(str(folder))
    for read in (atlas.samples, lambda: atlas.shard("demo-validation-01"), lambda: atlas.map("x", "legrad")):
        with pytest.raises(RunFailedError, match=r"01\.parquet: is not as it was committed; see vitatlas"):
            read()


RECORD = RunRecord(
    spec=RunSpec(shards=("a.tar",), model=ModelSpec(name="test_vit", pretrained=True)),
    model=ModelRecord(
        name="test_vit", network="VisionTransformer", weights="sha256:0", parameters=1, classes=2, input_size=(8, 8),
        grid=(2, 2), prefix_tokens=1, readout="token", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        interpolation="bicubic", crop_pct=0.9, crop_mode="center",
    ),
    methods={"legrad": {"layers": "all"}}, extra_outputs={}, slot=2, chunk=2,
    shards=(ShardRecord("a", "a.tar", 2, 10240),), versions={"torch": "2"},
)  # fmt: skip


def test_the_hash_stays_the_same_in_later_versions() -> None:
    """Atlases carry it: with another value, none that exists can be read."""

    class LaterSpec(RunSpec):
        option: str = "as before"

    class LaterRecord(RunRecord):
        spec: LaterSpec
        further: tuple[str, ...] = ()

    record = RECORD.sealed()
    assert record.run_hash == "sha256:7610417aa22da8f3349b84935eec2224c5438f438974eefbffd4fabe25bd1146"
    later = LaterRecord.read(record.to_bytes(), "run.json")
    assert (later.changed_fields(), later.sealed().run_hash) == ([], record.run_hash)
    chosen = later.model_copy(update={"spec": later.spec.model_copy(update={"option": "new"})})
    assert chosen.changed_fields() == ["spec.option"]


def test_the_order_of_the_fields_in_the_file_and_the_versions_do_not_matter() -> None:
    content = json.loads(RECORD.sealed().to_bytes())
    content |= {"model": dict(reversed(content["model"].items())), "versions": {"torch": "3"}}
    turned = json.dumps(dict(reversed(content.items()))).encode()
    assert RunRecord.read(turned, "run.json").changed_fields() == []


def test_a_record_without_later_fields_is_written_as_earlier_versions_wrote_it() -> None:
    """Products are compared with their commits byte by byte, and earlier versions refuse unknown fields."""
    commit = {"shard": "a", "parent": "sha256:0", "settings_hash": "sha256:1", "items": [], "counts": {"ok": 1}}
    data = (json.dumps(commit | {"statistics": {}, "objects": []}, indent=1) + "\n").encode()
    assert DerivedCommit.read(data, "a.json").to_bytes() == data
    assert b"extends" not in RECORD.sealed().to_bytes()
    part = RECORD.model_copy(update={"extends": "sha256:0"}).sealed()
    assert RunRecord.read(part.to_bytes(), "run.json") == part
    assert part.run_hash != RECORD.sealed().run_hash
