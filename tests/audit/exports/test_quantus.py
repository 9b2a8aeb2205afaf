"""Arrays for Quantus are those of the atlas, of the shards and of the truth."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.audit.exports.export_audit import export_audit
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from pipeline.truth import read_truth


def test_each_tar_has_its_maps_classes_and_rows(atlas: Atlas, audit: Path) -> None:
    folder = audit / "quantus" / "shards"
    assert {path.name for path in folder.iterdir()} == set(atlas.commits)
    for name in atlas.commits:
        shard = atlas.shard(name)
        assert np.load(folder / name / "y.npy").tolist() == shard.samples["label"].to_pylist()
        assert np.load(folder / name / "row.npy").tolist() == shard.samples["row"].to_pylist()
        assert {path.stem for path in (folder / name / "a").iterdir()} == set(atlas.methods)
        for method in atlas.methods:
            maps = np.load(folder / name / "a" / f"{method}.npy", mmap_mode="r")
            assert maps.dtype == np.float32
            assert np.array_equal(maps[:, 0], shard.maps(method))


def test_pixels_are_those_that_virelay_gets(audit: Path) -> None:
    parts = sorted((audit / "quantus" / "shards").iterdir())
    pixels = np.concatenate([np.load(part / "x.npy", mmap_mode="r") for part in parts])
    assert pixels.dtype == np.uint8
    with h5py.File(audit / "virelay" / "input.h5") as file:
        assert np.array_equal(pixels, file["data"][:])


def test_masks_cover_what_the_truth_says(atlas: Atlas, audit: Path, world: SyntheticDataset) -> None:
    truths, size = read_truth(world.truth), atlas.run.model.input_size
    for name in atlas.commits:
        masks = np.load(audit / "quantus" / "shards" / name / "s.npy")
        known = np.load(audit / "quantus" / "shards" / name / "known.npy")
        samples = atlas.shard(name).samples.to_pylist()
        assert (masks.dtype, known.dtype) == (np.bool_, np.bool_)
        assert masks.shape == (len(samples), 1, *size)
        assert known.all()
        for sample, mask in zip(samples, masks, strict=True):
            truth = truths.find(sample["key"])
            assert truth is not None
            assert truth.mask is not None
            assert mask.mean() == pytest.approx(truth.mask.mean(), abs=0.02)
            y, x = np.argwhere(mask[0]).mean(0) + 0.5
            centre = np.argwhere(truth.mask).mean(0) + 0.5
            assert (y / size[0], x / size[1]) == pytest.approx(centre / truth.mask.shape, abs=0.02)


def test_a_picture_without_truth_has_an_empty_mask_and_is_not_known(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    data = (world.truth / "instances.json").read_text().replace("scene_000001.jpg", "scene_999999.jpg")
    (tmp_path / "instances.json").write_text(data)
    export_audit(atlas, str(tmp_path), "quantus", methods=["legrad"], truth=read_truth(tmp_path), pixels=False)
    part = tmp_path / "quantus" / "shards" / next(iter(atlas.commits))
    assert np.flatnonzero(~np.load(part / "known.npy")).tolist() == [1]
    assert not np.load(part / "s.npy")[1].any()


def test_without_truth_and_pictures_there_are_neither(atlas: Atlas, tmp_path: Path) -> None:
    export_audit(atlas, str(tmp_path), "quantus", "predicted", ["legrad"], pixels=False)
    part = tmp_path / "quantus" / "shards" / next(iter(atlas.commits))
    assert {path.name for path in part.iterdir()} == {"a", "row.npy", "y.npy"}
    expected = atlas.shard(part.name).samples["prediction"].to_pylist()
    assert np.load(part / "y.npy").tolist() == expected
