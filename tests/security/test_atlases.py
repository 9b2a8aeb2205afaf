"""An atlas of a stranger: what its records name is looked for below it, and nowhere else."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run import INLINE, run
from pipeline.store import ObjectStore
from schemas.errors import AtlasError, RunFailedError

Vitatlas = Callable[..., tuple[int, str, str]]


@pytest.fixture
def atlas(finished: Path, inside: Path) -> Path:
    """A finished atlas, whose records the tests falsify."""
    return finished.rename(inside / "atlas")


def falsify(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "..", ".", "", "a//b", "a/./b", "a\\..\\b", "a\0b", "//host/share"]
)
@pytest.mark.parametrize("url", ["inside", "memory://atlas"])
def test_a_name_that_leads_out_is_refused(inside: Path, monkeypatch: pytest.MonkeyPatch, url: str, name: str) -> None:
    monkeypatch.chdir(inside.parent)
    objects = ObjectStore(url)
    for call in (
        objects.get,
        objects.exists,
        objects.list,
        objects.delete,
        lambda name: objects.put(name, b""),
        lambda name: objects.create(name, b""),
        lambda name: list(objects.read([name])),
    ):
        with pytest.raises(RunFailedError, match="is not a valid object name"):
            call(name)


def test_what_a_commit_names_outside_is_not_read(vitatlas: Vitatlas, atlas: Path, outside: Path) -> None:
    os.mkfifo(outside / "inside" / "secret")  # whoever reads it waits for ever
    falsify(atlas / "commits" / "part-0.json", lambda record: record["objects"][0].update(path="../secret"))
    code, out, err = vitatlas("verify", atlas)
    assert "../secret" in out + err
    assert (code, "Traceback" in err) == (1, False)


def test_a_tar_whose_name_climbs_is_not_followed(vitatlas: Vitatlas, atlas: Path, inside: Path) -> None:
    (inside / "policy.yaml").write_text("{name: a, methods: [legrad], threshold: {kind: otsu}}")
    target = atlas / "commits" / ".." / ".." / "part-0.json"
    target.resolve().write_bytes((atlas / "commits" / "part-0.json").read_bytes())
    falsify(atlas / "run.json", lambda record: record["shards"][0].update(shard="../../part-0"))
    for command in (["status"], ["verify"], ["label", "--policy", inside / "policy.yaml", "--out", inside / "masks"]):
        _, _, err = vitatlas(command[0], atlas, *command[1:])
        assert "Traceback" not in err
    written = {path.relative_to(inside).parts[0] for path in inside.rglob("*.parquet")}
    assert written <= {"atlas", "masks"}


def test_a_run_over_such_a_tar_writes_nothing_outside(vitatlas: Vitatlas, atlas: Path, outside: Path) -> None:
    (atlas / "commits" / "part-0.json").unlink()
    falsify(atlas / "run.json", lambda record: record["shards"][0].update(shard="../../../climbed"))
    code, _, err = vitatlas("run", atlas, "--executor", "inline")
    assert code != 0
    assert "Traceback" not in err


def test_a_method_whose_name_climbs_writes_nothing_outside(atlas: Path) -> None:
    (atlas / "commits" / "part-0.json").unlink()
    falsify(atlas / "run.json", lambda record: record["methods"].update({"../../../climbed": {}}))
    with pytest.raises((AtlasError, ValueError)):
        run(str(atlas), INLINE)


def test_maps_of_another_format_are_not_unpickled(vitatlas: Vitatlas, atlas: Path, bomb: bytes) -> None:
    """Version 2 of Zarr has codecs that unpickle."""
    array = atlas / "maps.zarr" / "legrad"
    for metadata in atlas.glob("maps.zarr/**/zarr.json"):
        metadata.unlink()
    (atlas / "maps.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    codecs = {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None}
    layout = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C"}
    (array / ".zarray").write_text(json.dumps(layout | codecs))
    (array / "0").write_bytes(bomb)
    for command in (["verify"], ["status"]):
        _, _, err = vitatlas(command[0], atlas)
        assert "Traceback" not in err


def test_a_command_in_a_planned_atlas_does_not_run(vitatlas: Vitatlas, atlas: Path, outside: Path) -> None:
    def command(record: dict[str, Any]) -> None:
        record["spec"]["allow_pipe"] = True
        record["shards"][0]["url"] = f"pipe:touch {outside / 'inside' / 'marker'}"

    (atlas / "commits" / "part-0.json").unlink()
    falsify(atlas / "run.json", command)
    vitatlas("run", atlas, "--executor", "inline")
    assert not (outside / "inside" / "marker").exists()
