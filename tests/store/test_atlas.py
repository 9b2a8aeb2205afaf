"""An atlas as others read it: xarray, zarr, DuckDB, and ``Atlas`` itself."""

import json
import pickle
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
import xarray
import zarr
from PIL import Image

from pipeline.demo.synthetic_dataset import DEMO, SyntheticDataset, make_scene
from pipeline.demo.train_model import MEAN, SIDE, STD
from pipeline.explain import explain
from pipeline.explain.load import load_model
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import UsageError
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
    assert samples.schema.metadata[b"run"].decode() == atlas.run.run_hash
    assert samples["row"].to_pylist() == list(range(48))
    assert samples["key"].to_pylist() == [f"scene_{i:06d}" for i in range(48)]
    accuracy = np.mean(np.array(samples["label"]) == np.array(samples["prediction"]))
    assert accuracy > 0.9
    ranks, right = np.array(samples["label_rank"]), np.array(samples["label"]) == np.array(samples["prediction"])
    assert ((ranks == 0) == right).all()


def test_maps_are_those_of_explain(atlas: Atlas, world: SyntheticDataset) -> None:
    """From the shard's bytes, decoded here by other means, through the public function."""
    import io
    import tarfile

    loaded = load_model(atlas.run.spec.model)
    with tarfile.open(world.folder / "shards" / "demo-validation-01.tar") as archive:
        member = archive.extractfile("scene_000030.jpg")
        assert member is not None
        image = Image.open(io.BytesIO(member.read())).convert("RGB")
    assert image.size == make_scene(DEMO, 0, 30).image.shape[1::-1]
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    pixels = torch.from_numpy((small / 255 - MEAN) / STD).permute(2, 0, 1)[None]
    label = make_scene(DEMO, 0, 30).label
    expected = explain(loaded.model, pixels, torch.tensor([[label]]), ["legrad"])["legrad"][0, 0].numpy()
    raw = atlas.raw("scene_000030", "legrad", "label")
    assert np.abs(raw - expected).max() < 1e-3 * np.ptp(expected)
    scaled = atlas.map("scene_000030", "legrad")
    assert np.abs(scaled - (expected - expected.min()) / np.ptp(expected)).max() < 1e-3


def test_lazy_maps_and_one_map_agree(atlas: Atlas) -> None:
    lazy = atlas.maps("attention")
    assert np.array_equal(lazy[7, 1].values.astype(np.float32), atlas.map("scene_000007", "attention", "predicted"))
    part = atlas.shard("demo-validation-01")
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
        (lambda a: a.shard("demo-validation-09"), "is not finished"),
        (lambda a: Atlas.open(a.objects.url + "/samples"), "is not an atlas"),
        (lambda a: Atlas.open("/nowhere/at/all"), "is not an atlas"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(atlas: Atlas, call, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call(atlas)


@pytest.mark.parametrize("fields", [{}, {"new": "field"}])
@pytest.mark.parametrize(
    ("version", "message"),
    [(1, "has format 1, .* compute it again"), (99, "has format 99, .* update"), (None, "states no format")],
)
def test_another_format_is_refused_by_reading_and_by_planning_again(
    atlas: Atlas, tmp_path: Path, version: int | None, message: str, fields: dict[str, str]
) -> None:
    record = json.loads(atlas.objects.get("run.json")) | fields
    del record["format"]
    (tmp_path / "run.json").write_text(json.dumps(record if version is None else record | {"format": version}))
    with pytest.raises(UsageError, match=message):
        Atlas.open(str(tmp_path))
    with pytest.raises(UsageError, match=message):
        plan(atlas.run.spec, str(tmp_path))


def test_an_atlas_is_sent_as_its_address_and_opened_once_a_process(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = pickle.dumps(Atlas.open(atlas.objects.url))
    assert len(sent) < 500
    first = pickle.loads(sent)
    assert pickle.loads(sent) is first
    assert first.run == atlas.run
    assert first.shard("demo-validation-00").samples == atlas.shard("demo-validation-00").samples
    other = shutil.copytree(atlas.objects.url, tmp_path / "other")
    assert pickle.loads(pickle.dumps(Atlas.open(str(other)))).objects.url == str(other)
