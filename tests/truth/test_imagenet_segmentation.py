"""Truth of ImageNet-Segmentation, in the layout of its MATLAB file."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.truth import read_truth
from schemas.errors import UsageError

h5py = pytest.importorskip("h5py")
NAMES = ("n02084071_1234", "n02124075_56")


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.random(size) < 0.5).astype(np.uint8) for size in ((5, 7), (6, 4))]


def write(path: Path, values: list[np.ndarray]) -> Path:
    """As MATLAB writes a struct array: references to transposed arrays, of the masks through a cell."""
    with h5py.File(path, "w") as file:
        fields = {name: [] for name in ("id", "gt", "img")}
        for index, (name, mask) in enumerate(zip(NAMES, values, strict=True)):
            text = file.create_dataset(
                f"#refs#/id{index}", data=np.array([[ord(letter)] for letter in name], np.uint16)
            )
            stored = file.create_dataset(f"#refs#/mask{index}", data=mask.T)
            cell = file.create_dataset(f"#refs#/gt{index}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = stored.ref
            image = file.create_dataset(f"#refs#/img{index}", data=np.zeros((3, *mask.T.shape), np.uint8))
            for field, reference in (("id", text.ref), ("gt", cell.ref), ("img", image.ref)):
                fields[field].append(reference)
        for field, references in fields.items():
            column = file.create_dataset(f"value/{field}", (len(references), 1), h5py.ref_dtype)
            column[:, 0] = references
    return path


def test_masks_are_named_by_their_images_and_not_transposed(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path / "gtsegs_ijcv.mat", masks()))
    assert list(truth) == list(NAMES)
    for image, mask in zip(truth.by_key.values(), masks(), strict=True):
        assert np.array_equal(image.mask, mask == 1)
        assert (image.height, image.width) == mask.shape
        rows, columns = np.nonzero(mask)
        assert image.boxes.tolist() == [[columns.min(), rows.min(), columns.max(), rows.max()]]


def test_other_values_and_other_files_are_named(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path / "values.mat", [mask * 3 for mask in masks()]))
    with pytest.raises(UsageError, match=r"values\.mat: the mask of n02084071_1234 has other values than 0 and 1"):
        _ = truth.by_key[NAMES[0]].mask
    (tmp_path / "junk.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["value/img"] = np.zeros(3)
    for name in ("junk.mat", "other.mat"):
        with pytest.raises(UsageError, match=f"{name}: is not the file of ImageNet-Segmentation"):
            read_truth(tmp_path / name)
