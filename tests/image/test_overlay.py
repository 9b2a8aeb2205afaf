"""A map over a picture: where it lies, what its colours say, and what is no map."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipeline.image import overlay_heatmap
from schemas.errors import UsageError

GREY = Image.new("L", (60, 40), 128)


def warmth(image: Image.Image) -> np.ndarray:
    """How much redder than blue each pixel is."""
    values = np.asarray(image).astype(int)
    return values[..., 0] - values[..., 2]


def test_it_is_red_where_the_map_is_high_and_blue_where_it_is_low() -> None:
    over = overlay_heatmap(GREY, np.array([[-3.0, 5.0], [-3.0, -3.0]]))
    assert (over.size, over.mode) == ((60, 40), "RGB")
    found = warmth(over)
    assert found[:15, 45:].min() > 50
    assert found[25:, :].max() < found[:15, 45:].min()


def test_only_the_order_of_magnitude_is_taken_from_a_map_not_its_unit() -> None:
    values = np.random.default_rng(0).random((4, 6))
    first, other = overlay_heatmap(GREY, values), overlay_heatmap(GREY, 1e-4 * values - 7)
    assert np.abs(np.asarray(first).astype(int) - np.asarray(other)).max() <= 1


def test_a_constant_map_is_blue_all_over() -> None:
    constant = np.asarray(overlay_heatmap(GREY, np.full((3, 3), 9.0)))
    assert (constant == constant[0, 0]).all()
    assert np.array_equal(constant[0, 0], np.asarray(overlay_heatmap(GREY, np.eye(3)))[2, -2])


def test_it_lies_on_the_picture_as_it_is_meant_to_be_seen() -> None:
    sideways = Image.new("RGB", (60, 40))
    sideways.getexif()[ExifTags.Base.Orientation] = 6
    assert overlay_heatmap(sideways, np.eye(4)).size == (40, 60)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((1, 1, 4, 4)), r"a map is \[h, w\], this is \[1, 1, 4, 4\]; pass one"),
        (np.zeros((0, 4)), r"this is \[0, 4\]"),
        (np.array([[0.0, np.nan]]), "NaN or infinite"),
    ],
)
def test_what_is_no_map_is_refused(values: np.ndarray, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        overlay_heatmap(GREY, values)
