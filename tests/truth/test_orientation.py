"""Truth of images with an EXIF orientation: turned to the maps, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.image.orientation import apply_orientation, orient_mask
from pipeline.truth import Truth, read_truth
from pipeline.truth.truth import resize_mask
from schemas.errors import UsageError

WIDTH, HEIGHT = 14, 22
BOX = (4, 7, 9, 12)


def boxes(folder: Path, orientation: Any = None) -> Truth:
    """A box of the stored image, in a file that gives no sizes."""
    (folder / "boxes.csv").write_text("image_id,x0,y0,x1,y1\na.jpg," + ",".join(map(str, BOX)) + "\n")
    return read_truth(folder / "boxes.csv", orientation).by_key["a"]


def masks(folder: Path, orientation: Any = None) -> Truth:
    """The same box as a mask, whose file has the size of the stored image."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX[1] : BOX[3] + 1, BOX[0] : BOX[2] + 1] = 1
    Image.fromarray(mask).save(folder / "a.png")
    return read_truth(folder, orientation).by_key["a"]


def sample(exif_orientation: int, exif: str) -> dict[str, int]:
    width, height = (HEIGHT, WIDTH) if exif == "apply" and exif_orientation >= 5 else (WIDTH, HEIGHT)
    return {"width": width, "height": height, "orientation": exif_orientation}


@pytest.mark.parametrize("exif_orientation", range(1, 9))
def test_a_truth_of_stored_images_is_turned_to_upright_maps(exif_orientation: int, tmp_path: Path) -> None:
    seen = sample(exif_orientation, "apply")
    (tmp_path / "png").mkdir()
    box = boxes(tmp_path, "stored").for_sample(seen, "apply")
    mask = masks(tmp_path / "png", "stored").for_sample(seen, "apply")
    assert mask.mask is not None
    stored = masks(tmp_path / "png").mask
    assert stored is not None
    upright = np.asarray(apply_orientation(Image.fromarray(stored), exif_orientation))
    assert np.array_equal(mask.mask, upright)
    assert mask.ignore.shape == upright.shape
    assert (mask.width, mask.height) == (seen["width"], seen["height"])
    rows, columns = np.nonzero(upright)
    tight = [[columns.min(), rows.min(), columns.max(), rows.max()]]
    assert box.boxes.tolist() == mask.boxes.tolist() == tight
    on_grid, ignored = mask.masks_on_grid(28)
    assert on_grid is not None
    assert on_grid.shape == ignored.shape == (28, 28)
    assert abs(on_grid.mean() - upright.mean()) < 0.05


@pytest.mark.parametrize("exif_orientation", range(1, 9))
def test_a_truth_of_upright_images_is_turned_to_stored_maps(exif_orientation: int, tmp_path: Path) -> None:
    """There and back: the upright truth of a stored box, at maps of the stored image, is the box."""
    upright = boxes(tmp_path, "stored").for_sample(sample(exif_orientation, "apply"), "apply").boxes[0].tolist()
    (tmp_path / "boxes.csv").write_text("image_id,x0,y0,x1,y1\na.jpg," + ",".join(map(str, upright)) + "\n")
    truth = read_truth(tmp_path / "boxes.csv", "upright").by_key["a"]
    assert truth.for_sample(sample(exif_orientation, "ignore"), "ignore").boxes.tolist() == [list(BOX)]


@pytest.mark.parametrize(("orientation", "exif"), [("stored", "ignore"), ("upright", "apply")])
@pytest.mark.parametrize("exif_orientation", [3, 6])
def test_a_truth_of_the_image_that_the_maps_are_of_stays(
    orientation: Any, exif: Any, exif_orientation: int, tmp_path: Path
) -> None:
    truth = boxes(tmp_path, orientation).for_sample(sample(exif_orientation, exif), exif)
    assert truth.boxes.tolist() == [list(BOX)]


@pytest.mark.parametrize("exif_orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["one mask", "masks of another size than the image"])
def test_a_mask_is_turned_before_it_is_resized(kind: str, exif_orientation: int, tmp_path: Path) -> None:
    """Nearest pixels of a resize are not the same from both ends."""
    mask, ignore = np.random.default_rng(0).random((2, 2 * HEIGHT, 2 * WIDTH)) < 0.5
    width, height = 2 * WIDTH, 2 * HEIGHT
    if kind == "one mask":
        Image.fromarray(np.where(ignore & ~mask, 255, mask).astype(np.uint8)).convert("P").save(tmp_path / "a.png")
    else:
        width, height = WIDTH, HEIGHT
        for name, plane in (("object", mask), ("rest", ignore)):
            Image.fromarray(plane).save(tmp_path / f"{name}.png")
        (tmp_path / "image_ids.txt").write_text("a.jpg")
        (tmp_path / "localization.txt").write_text("a.jpg,object.png,rest.png")
    truth = read_truth(tmp_path, "stored").by_key["a"]
    seen = {"width": width, "height": height, "orientation": exif_orientation}
    if exif_orientation >= 5:
        seen |= {"width": height, "height": width}
    on_grid = truth.for_sample(seen, "apply").masks_on_grid(30)
    for found, plane in zip(on_grid, (mask, ignore & ~mask), strict=True):
        assert np.array_equal(found, resize_mask(orient_mask(plane, exif_orientation), 30))


@pytest.mark.parametrize("exif_orientation", [3, 6])
@pytest.mark.parametrize("orientation", [None, "stored", "upright"])
def test_a_mask_of_another_size_is_refused_and_the_option_named(
    orientation: Any, exif_orientation: int, tmp_path: Path
) -> None:
    other = {"width": 30, "height": 31, "orientation": exif_orientation}
    with pytest.raises(UsageError, match=r"but 14×22 in the truth; .* state another --truth-orientation"):
        masks(tmp_path, orientation).for_sample(other, "apply")


def test_a_wrong_statement_is_refused_and_the_option_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a: is 22×14 pixels, but 14×22 in the truth; .* --truth-orientation"):
        masks(tmp_path, "upright").for_sample(sample(6, "apply"), "apply")


def test_sizes_decide_where_they_differ(tmp_path: Path) -> None:
    mask = masks(tmp_path)
    assert mask.for_sample(sample(6, "apply"), "apply").mask is not None
    assert (mask.for_sample(sample(6, "apply"), "apply").width, mask.width) == (HEIGHT, WIDTH)
    assert mask.for_sample(sample(6, "ignore"), "ignore") is mask


@pytest.mark.parametrize("exif_orientation", range(2, 9))
def test_what_nothing_decides_is_refused_with_the_option(exif_orientation: int, tmp_path: Path) -> None:
    (tmp_path / "png").mkdir()
    unsized, sized = boxes(tmp_path), masks(tmp_path / "png")
    for truth in (unsized, sized) if exif_orientation < 5 else (unsized,):
        with pytest.raises(UsageError, match=r"a: has the EXIF orientation .* --truth-orientation stored\|upright"):
            truth.for_sample(sample(exif_orientation, "apply"), "apply")


def test_the_digest_covers_the_orientation(tmp_path: Path) -> None:
    boxes(tmp_path)
    digests = {read_truth(tmp_path / "boxes.csv", given).digest for given in (None, "stored", "upright")}  # type: ignore[arg-type]
    assert len(digests) == 3
