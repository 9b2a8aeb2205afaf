"""Whatever in an atlas is not as it was committed is found and named."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import soak_after, write_tar

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.verify import VerifyResult, verify
from schemas.base import sha256
from schemas.errors import RunFailedError
from schemas.run import RunSpec


@pytest.fixture
def copy(atlas: Atlas, tmp_path: Path) -> Path:
    return Path(shutil.copytree(atlas.objects.url, tmp_path / "copy"))


def test_verify_finds_nothing_in_a_good_atlas(copy: Path) -> None:
    assert verify(Atlas.open(str(copy))) == VerifyResult(2 * (3 * 5 + 1), 0, [])


def test_verify_names_every_object_of_which_a_byte_is_changed_or_missing(copy: Path) -> None:
    records = json.loads((copy / "commits" / "demo-validation-01.json").read_text())["objects"]
    names = [record["path"] for record in records]
    contents = {name: (copy / name).read_bytes() for name in names}
    for change in (lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: data[:-1]):
        for name, data in contents.items():
            (copy / name).write_bytes(change(data))
        faults = verify(Atlas.open(str(copy))).faults
        assert sorted(fault.split(": ")[1] for fault in faults) == sorted(names)
        assert all(fault.startswith("demo-validation-01: ") for fault in faults)
    for name in names:
        (copy / name).unlink()
    result = verify(Atlas.open(str(copy)))
    assert sorted(result.faults) == sorted(f"demo-validation-01: {name}: is missing" for name in names)
    assert result.damaged == ["demo-validation-01"]


@pytest.mark.parametrize("index", soak_after(1, range(16)))
def test_verify_names_the_one_object_that_is_changed(copy: Path, index: int) -> None:
    record = json.loads((copy / "commits" / "demo-validation-01.json").read_text())["objects"][index]
    path = copy / record["path"]
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    (fault,) = verify(Atlas.open(str(copy))).faults
    assert fault.startswith(f"demo-validation-01: {record['path']}: ")


def test_verify_counts_what_is_not_committed(copy: Path) -> None:
    (copy / "commits" / "demo-validation-00.json").unlink()
    assert verify(Atlas.open(str(copy))) == VerifyResult(3 * 5 + 1, 1, [])


def test_verify_finds_a_map_that_is_not_there(copy: Path) -> None:
    """Also where the commit record itself says that all is well: a missing Zarr object reads as NaN."""
    path = copy / "commits" / "demo-validation-00.json"
    record = json.loads(path.read_text())
    record["objects"] = [each for each in record["objects"] if "/legrad/" not in each["path"]]
    path.write_text(json.dumps(record))
    shutil.rmtree(copy / "maps.zarr" / "legrad" / "c" / "0")
    problems = verify(Atlas.open(str(copy))).faults
    with pytest.raises(
        RunFailedError, match="demo-validation-00: legrad maps of label are missing; see vitatlas verify"
    ):
        Atlas.open(str(copy)).shard("demo-validation-00").maps("legrad")
    assert problems == [
        f"demo-validation-00: 24 samples that are ok have no legrad map of their {t}" for t in ("label", "predicted")
    ]


def recommit(copy: Path, shard: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a sample table as if it had been committed so."""
    table, record = copy / "samples" / f"{shard}.parquet", copy / "commits" / f"{shard}.json"
    pq.write_table(change(pq.read_table(table)), table)
    content = json.loads(record.read_text())
    for entry in content["objects"]:
        if entry["path"].startswith("samples/"):
            entry |= {"size": table.stat().st_size, "sha256": sha256(table.read_bytes())}
    record.write_text(json.dumps(content))


def test_verify_recounts_rows_and_statuses_and_looks_for_a_key_that_comes_twice(copy: Path) -> None:
    shard = "demo-validation-00"
    whole = pq.read_table(copy / "samples" / f"{shard}.parquet")
    recommit(copy, shard, lambda table: table.slice(1))
    assert verify(Atlas.open(str(copy))).faults == [
        f"{shard}: its sample table does not have the 24 rows that were committed"
    ]
    failed = pa.array(["ok"] * 23 + ["undecodable"]).dictionary_encode()
    recommit(copy, shard, lambda _: whole.set_column(whole.schema.get_field_index("status"), "status", failed))
    (fault,) = verify(Atlas.open(str(copy))).faults
    assert fault.startswith(f"{shard}: its rows have the statuses {{'ok': 23, 'undecodable': 1}}, {{'ok': 24}} were")
    keys = pa.array(["twin", "twin", *whole["key"].to_pylist()[2:]])
    recommit(copy, shard, lambda _: whole.set_column(whole.schema.get_field_index("key"), "key", keys))
    assert verify(Atlas.open(str(copy))).faults == [f"{shard}: 2 samples that are ok have the key twin"]


def test_verify_finds_what_belongs_to_nothing(copy: Path) -> None:
    strays = [
        "maps.zarr/legrad/c/7/0/0/0",
        "maps.zarr/old/zarr.json",
        "samples/other.parquet",
        ".vitatlas-x1y2.part",
        "notes",
    ]
    for name in strays:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"x")
    (copy / "labels" / "mine").mkdir(parents=True)
    (copy / "labels" / "mine" / "policy.json").write_text("{}")  # derived from it
    assert sorted(verify(Atlas.open(str(copy))).faults) == sorted(
        f"{name}: belongs to nothing that was committed" for name in strays
    )


def test_verify_follows_no_path_out_of_the_atlas(copy: Path) -> None:
    path = copy / "commits" / "demo-validation-00.json"
    record = json.loads(path.read_text())
    record["objects"].append({"path": "../../secret", "size": 1, "sha256": "sha256:0"})
    path.write_text(json.dumps(record))
    assert verify(Atlas.open(str(copy))).faults == [
        "demo-validation-00: its commit names ../../secret, which is not its own"
    ]


@pytest.mark.parametrize(
    "how",
    ["missing", "not JSON", '"little"', '"fill_value": "NaN"', '"dimension_names": [', "48"],
)
def test_verify_looks_at_the_metadata_too_and_planning_again_mends_it(copy: Path, how: str) -> None:
    path = copy / "maps.zarr" / "legrad" / "zarr.json"
    text = path.read_text()
    if how == "missing":
        path.unlink()
    elif how == "not JSON":
        path.write_text("{")
    else:
        other = {'"little"': '"big"', '"fill_value": "NaN"': '"fill_value": 0.0', "48": "49"}
        assert how in text
        path.write_text(text.replace(how, other.get(how, how + '"w", '), 1))
    (problem,) = verify(Atlas.open(str(copy))).faults
    assert problem.startswith("maps.zarr/legrad/zarr.json: is")
    plan(Atlas.open(str(copy)).run.spec, str(copy))
    assert verify(Atlas.open(str(copy))).faults == []


def test_a_tar_without_any_map_is_no_fault(spec: RunSpec, tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "part-1.tar", [(f"s{i}.jpg", b"junk") for i in range(3)])
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    assert verify(Atlas.open(str(tmp_path / "atlas"))) == VerifyResult(3 * (3 * 3 + 1), 0, [], [])


@pytest.mark.parametrize("content", ["", "{", '{"shard": 1}', "another shard's"])
def test_a_commit_record_that_is_none_is_named_with_the_mend(copy: Path, content: str) -> None:
    path = copy / "commits" / "demo-validation-01.json"
    other = (copy / "commits" / "demo-validation-00.json").read_text()
    path.write_text(other if content.startswith("another") else content)
    (fault,) = verify(Atlas.open(str(copy))).faults
    assert re.search(r"demo-validation-01.json: .*; remove it, then: vitatlas run", fault)
    with pytest.raises(RunFailedError, match=r"demo-validation-01.json: .*; remove it, then: vitatlas run"):
        Atlas.open(str(copy)).samples(["row"]), Atlas.open(str(copy)).commits
