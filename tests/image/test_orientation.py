"""EXIF orientation: images, masks and boxes are turned alike, and read the same way everywhere."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.image.orientation import (
    apply_orientation,
    invert_orientation,
    orient_boxes,
    orient_mask,
    read_orientation,
    swaps_sides,
)


def stored_mask() -> np.ndarray:
    """A mask of 7 × 11 pixels with one box, x 2–4 and y 5–8."""
    mask = np.zeros((11, 7), bool)
    mask[5:9, 2:5] = True
    return mask


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_and_boxes_turn_as_images_do(orientation: int) -> None:
    mask = stored_mask()
    upright = np.asarray(apply_orientation(Image.fromarray(mask), orientation))
    assert np.array_equal(orient_mask(mask, orientation), upright)
    (box,) = orient_boxes(np.array([[2, 5, 4, 8]]), orientation, 7, 11)
    rows, columns = np.nonzero(upright)
    assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert swaps_sides(orientation) == (upright.shape != mask.shape)
    assert np.array_equal(orient_mask(upright, invert_orientation(orientation)), mask)


@pytest.mark.parametrize("orientation", [0, *range(1, 9), 9])
def test_the_orientation_of_an_opened_image_is_that_of_its_exif(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif.tobytes())
    with Image.open(buffer) as image:
        assert read_orientation(image) == (orientation if 1 <= orientation <= 8 else 1)
