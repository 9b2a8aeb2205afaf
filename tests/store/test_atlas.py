"""An atlas as others read it: xarray, zarr, DuckDB, and ``Atlas`` itself."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray
import zarr
from PIL import Image
from support import write_tar

from pipeline.demo.train import MEAN, SIDE, STD
from pipeline.demo.world import DEMO, World, scene
from pipeline.explain import explain
from pipeline.explain.load import load
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.sink import normalise
from pipeline.store.verify import Verdict, verify
from schemas.errors import RunFailed, UsageError
from schemas.layout import Flag
from schemas.record import sha256
from schemas.run import RunSpec
from schemas.samples import SAMPLES


def test_xarray_opens_it_with_named_dimensions(atlas: Atlas) -> None:
    data = xarray.open_zarr(f"{atlas.objects.url}/maps.zarr")
    assert data["legrad"].dims == ("row", "target", "y", "x")
    assert data["legrad"].shape == (48, 2, 8, 8)
    assert data["legrad"].dtype == np.float16
    assert data["legrad_range"].dims == ("row", "target", "bound")
    assert list(data["target"].values) == ["label", "predicted"]
    one = data["legrad"].sel(target="label").isel(row=30).values
    assert (one.min(), one.max()) == (0, 1)


def test_duckdb_joins_samples_to_maps_on_row(atlas: Atlas) -> None:
    maps = zarr.open_group(f"{atlas.objects.url}/maps.zarr", mode="r")["legrad"][:, 0]
    strongest = pa.table({"row": np.arange(len(maps)), "peak": maps.reshape(len(maps), -1).argmax(1)})
    query = f"""
        select s.key, s.label, m.peak from '{atlas.objects.url}/samples/*.parquet' s
        join strongest m using (row) where s.status = 'ok' order by row
    """
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == 48
    assert rows[25][0] == "scene_000025"
    assert strongest.num_rows == 48


def test_the_sample_table_has_its_schema_and_says_where_it_is_from(atlas: Atlas) -> None:
    samples = atlas.samples()
    assert samples.schema.remove_metadata() == SAMPLES
    assert samples.schema.metadata[b"spec"].decode() == atlas.run.spec_hash
    assert samples["row"].to_pylist() == list(range(48))
    assert samples["key"].to_pylist() == [f"scene_{i:06d}" for i in range(48)]
    accuracy = np.mean(np.array(samples["label"]) == np.array(samples["prediction"]))
    assert accuracy > 0.9
    ranks, right = np.array(samples["label_rank"]), np.array(samples["label"]) == np.array(samples["prediction"])
    assert ((ranks == 0) == right).all()


def test_maps_are_those_of_explain(atlas: Atlas, world: World) -> None:
    """From the tar's bytes, decoded here by other means, through the public function."""
    import io
    import tarfile

    loaded = load(atlas.run.spec.model)
    with tarfile.open(world.folder / "shards" / "demo-validation-01.tar") as archive:
        member = archive.extractfile("scene_000030.jpg")
        assert member is not None
        image = Image.open(io.BytesIO(member.read())).convert("RGB")
    assert image.size == scene(DEMO, 0, 30).image.shape[1::-1]
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    pixels = torch.from_numpy((small / 255 - MEAN) / STD).permute(2, 0, 1)[None]
    label = scene(DEMO, 0, 30).label
    expected = explain(loaded.model, pixels, torch.tensor([[label]]), ["legrad"])["legrad"][0, 0].numpy()
    raw = atlas.raw("scene_000030", "legrad", "label")
    assert np.abs(raw - expected).max() < 1e-3 * np.ptp(expected)
    scaled = atlas.map("scene_000030", "legrad")
    assert np.abs(scaled - (expected - expected.min()) / np.ptp(expected)).max() < 1e-3


def test_lazy_maps_and_one_map_agree(atlas: Atlas) -> None:
    lazy = atlas.maps("attention")
    assert np.array_equal(lazy[7, 1].values.astype(np.float32), atlas.map("scene_000007", "attention", "predicted"))
    part = atlas.tar("demo-validation-01")
    assert np.array_equal(part.maps("attention")[3], atlas.map("scene_000027", "attention"))
    assert np.array_equal(atlas.map(27, "attention"), atlas.map("scene_000027", "attention"))


def test_a_constant_map_is_zero_and_its_range_keeps_the_value(atlas: Atlas) -> None:
    assert not atlas.map("scene_000000", "uniform").any()
    assert (atlas.raw("scene_000000", "uniform") == 1).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda a: a.map("nobody", "legrad"), "has no sample 'nobody'"),
        (lambda a: a.map(99, "legrad"), "has no sample 99"),
        (lambda a: a.map("scene_000000", "gradcam"), "has no maps of 'gradcam'; it has attention, legrad"),
        (lambda a: a.map("scene_000000", "legrad", "top5"), "has no target 'top5'; it has label, predicted"),
        (lambda a: a.maps("gradcam"), "has no maps of 'gradcam'"),
        (lambda a: a.tar("demo-validation-09"), "is not finished"),
        (lambda a: Atlas.open(a.objects.url + "/samples"), "is not an atlas"),
        (lambda a: Atlas.open("/nowhere/at/all"), "is not an atlas"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(atlas: Atlas, call, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call(atlas)


def test_a_later_format_is_refused(atlas: Atlas, tmp_path: Path) -> None:
    record = json.loads(atlas.objects.get("run.json")) | {"format": 99, "new": "field"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="has format 99"):
        Atlas.open(str(tmp_path))


@pytest.fixture
def copy(atlas: Atlas, tmp_path: Path) -> Path:
    return Path(shutil.copytree(atlas.objects.url, tmp_path / "copy"))


def test_verify_finds_nothing_in_a_good_atlas(copy: Path) -> None:
    assert verify(str(copy)) == Verdict(2 * (3 * 5 + 1), 0, [])


def test_verify_names_every_object_of_which_a_byte_is_changed_or_missing(copy: Path) -> None:
    for name in json.loads((copy / "commits" / "demo-validation-01.json").read_text())["objects"]:
        path = copy / name["path"]
        whole = path.read_bytes()
        for broken in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1]):
            path.write_bytes(broken)
            (fault,) = verify(str(copy)).faults
            assert fault.startswith(f"demo-validation-01: {name['path']}: ")
        path.unlink()
        assert verify(str(copy)).faults == [f"demo-validation-01: {name['path']}: is missing"]
        assert verify(str(copy)).damaged == ["demo-validation-01"]
        path.write_bytes(whole)


def test_verify_counts_what_is_not_committed(copy: Path) -> None:
    (copy / "commits" / "demo-validation-00.json").unlink()
    assert verify(str(copy)) == Verdict(3 * 5 + 1, 1, [])


def test_verify_finds_a_map_that_is_not_there(copy: Path) -> None:
    """Also where the commit record itself says that all is well: a missing Zarr object reads as NaN."""
    path = copy / "commits" / "demo-validation-00.json"
    record = json.loads(path.read_text())
    record["objects"] = [each for each in record["objects"] if "/legrad/" not in each["path"]]
    path.write_text(json.dumps(record))
    shutil.rmtree(copy / "maps.zarr" / "legrad" / "c" / "0")
    problems = verify(str(copy)).faults
    with pytest.raises(RunFailed, match="demo-validation-00: legrad maps of label are missing; see vitatlas verify"):
        Atlas.open(str(copy)).tar("demo-validation-00").maps("legrad")
    assert problems == [
        f"demo-validation-00: 24 samples that are ok have no legrad map of their {t}" for t in ("label", "predicted")
    ]


def recommit(copy: Path, tar: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a sample table as if it had been committed so."""
    table, record = copy / "samples" / f"{tar}.parquet", copy / "commits" / f"{tar}.json"
    pq.write_table(change(pq.read_table(table)), table)
    content = json.loads(record.read_text())
    for entry in content["objects"]:
        if entry["path"].startswith("samples/"):
            entry |= {"size": table.stat().st_size, "sha256": sha256(table.read_bytes())}
    record.write_text(json.dumps(content))


def test_verify_recounts_rows_and_statuses_and_looks_for_a_key_that_comes_twice(copy: Path) -> None:
    tar = "demo-validation-00"
    whole = pq.read_table(copy / "samples" / f"{tar}.parquet")
    recommit(copy, tar, lambda table: table.slice(1))
    assert verify(str(copy)).faults == [f"{tar}: its sample table has not the 24 rows that were committed"]
    failed = pa.array(["ok"] * 23 + ["undecodable"]).dictionary_encode()
    recommit(copy, tar, lambda _: whole.set_column(whole.schema.get_field_index("status"), "status", failed))
    (fault,) = verify(str(copy)).faults
    assert fault.startswith(f"{tar}: its rows have the statuses {{'ok': 23, 'undecodable': 1}}, {{'ok': 24}} were")
    keys = pa.array(["twin", "twin", *whole["key"].to_pylist()[2:]])
    recommit(copy, tar, lambda _: whole.set_column(whole.schema.get_field_index("key"), "key", keys))
    assert verify(str(copy)).faults == [f"{tar}: 2 samples that are ok have the key twin"]


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
    assert sorted(verify(str(copy)).faults) == sorted(
        f"{name}: belongs to nothing that was committed" for name in strays
    )


def test_verify_follows_no_path_out_of_the_atlas(copy: Path) -> None:
    path = copy / "commits" / "demo-validation-00.json"
    record = json.loads(path.read_text())
    record["objects"].append({"path": "../../secret", "size": 1, "sha256": "sha256:0"})
    path.write_text(json.dumps(record))
    assert verify(str(copy)).faults == ["demo-validation-00: its commit names ../../secret, which is not its own"]


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
    (problem,) = verify(str(copy)).faults
    assert problem.startswith("maps.zarr/legrad/zarr.json: is")
    plan(Atlas.open(str(copy)).run.spec, str(copy))
    assert verify(str(copy)).faults == []


def test_a_tar_without_any_map_is_no_fault(spec: RunSpec, tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "part-1.tar", [(f"s{i}.jpg", b"junk") for i in range(3)])
    plan(spec, str(tmp_path / "atlas"))
    run(str(tmp_path / "atlas"), INLINE)
    assert verify(str(tmp_path / "atlas")) == Verdict(21, 0, [], [])


def test_a_plan_that_was_changed_is_a_fault_and_is_not_gone_on_with(copy: Path) -> None:
    path = copy / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert verify(str(copy)).faults == ["run.json: has been changed since it was planned"]
    with pytest.raises(RunFailed, match=r"its run.json has been changed since it was planned"):
        run(str(copy), INLINE)


@pytest.mark.parametrize("content", ["", "{", '{"tar": 1}', "another tar's"])
def test_a_commit_record_that_is_none_is_named_with_the_mend(copy: Path, content: str) -> None:
    path = copy / "commits" / "demo-validation-01.json"
    other = (copy / "commits" / "demo-validation-00.json").read_text()
    path.write_text(other if content.startswith("another") else content)
    (fault,) = verify(str(copy)).faults
    assert re.search(r"demo-validation-01.json: .*; remove it and go on with: vitatlas run", fault)
    with pytest.raises(RunFailed, match=r"demo-validation-01.json: .*; remove it and go on with: vitatlas run"):
        Atlas.open(str(copy)).samples(["row"]), Atlas.open(str(copy)).commits


def test_normalising_keeps_maps_within_the_unit_interval_and_reversible() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-20, 1e-3, 1.0, 1e12):
        raw = rng.normal(size=(2, 5, 5)) * scale
        scaled, bounds, flags = normalise(raw)
        assert not flags.any()
        assert scaled.min() == 0
        assert scaled.max() == 1
        back = bounds[:, :1, None] + (bounds[:, 1:, None] - bounds[:, :1, None]) * scaled
        assert np.abs(back - raw).max() < 1e-3 * np.ptp(raw)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_map_that_says_nothing_is_zero_and_flagged(poison: float) -> None:
    raw = np.ones((3, 3, 3))
    raw[1, 2, 2] = poison
    raw[2, 0, 0] = 2
    scaled, bounds, flags = normalise(raw)
    assert flags.tolist() == [Flag.CONSTANT, Flag.NOT_FINITE, Flag.OK]
    assert not scaled[:2].any()
    assert bounds.tolist() == [[1, 1], [0, 0], [1, 2]]


def test_an_atlas_is_sent_as_its_address_and_opened_once_a_process(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = pickle.dumps(Atlas.open(atlas.objects.url))
    assert len(sent) < 500
    first = pickle.loads(sent)
    assert pickle.loads(sent) is first
    assert first.run == atlas.run
    assert first.tar("demo-validation-00").samples == atlas.tar("demo-validation-00").samples
    other = shutil.copytree(atlas.objects.url, tmp_path / "other")
    assert pickle.loads(pickle.dumps(Atlas.open(str(other)))).objects.url == str(other)
