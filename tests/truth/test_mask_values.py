"""PNG masks of all kinds: numbers of objects, or a white object; and annotations without an area."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from truth.writers import drawn, write_xml

from pipeline.label.formats.png_encoding import GRAY_PALETTE, VOC_PALETTE, encode_indexed_png
from pipeline.truth import Truth, read_truth
from schemas.errors import UsageError

OBJECT = np.zeros((8, 10), bool)
OBJECT[2:6, 3:8] = True


def saved(folder: Path, values: np.ndarray, mask_values: Any = None, mode: str | None = None) -> Truth:
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(folder / "a.png")
    return read_truth(folder, mask_values=mask_values).by_key["a"]


def antialiased() -> np.ndarray:
    """White object, whose upper edge is half covered, or more, or less."""
    values = np.where(OBJECT, 255, 0).astype(np.uint8)
    values[1, 3:8], values[6, 3:8] = 120, 30
    return values


@pytest.mark.parametrize(
    "values",
    [
        np.where(OBJECT, 255, 0).astype(np.uint8),
        antialiased(),
        antialiased()[..., None].repeat(3, 2),
        np.dstack([antialiased()[..., None].repeat(3, 2), np.full(OBJECT.shape, 255, np.uint8)]),
        (antialiased().astype(np.uint16) * 257),
        OBJECT,
    ],
    ids=["two values", "antialiased", "RGB", "RGBA", "16 bits", "one bit"],
)
def test_a_white_object_is_that_of_every_mode(values: np.ndarray, tmp_path: Path) -> None:
    truth = saved(tmp_path, values, "gray")
    assert truth.mask is not None
    assert np.array_equal(truth.mask, OBJECT)
    assert not truth.ignore.any()
    assert truth.boxes.tolist() == [[3, 2, 7, 5]]


def test_numbers_of_objects_are_read_where_someone_says_so(tmp_path: Path) -> None:
    numbers = np.where(OBJECT, 2, 0).astype(np.uint8)
    numbers[0, 0], numbers[7] = 1, 255
    truth = saved(tmp_path, numbers, "indexed")
    assert truth.boxes.tolist() == [[0, 0, 0, 0], [3, 2, 7, 5]]
    assert truth.ignore.sum() == 10
    deep = saved(tmp_path, (np.where(OBJECT, 700, 0)).astype(np.uint16), "indexed")
    assert deep.boxes.tolist() == [[3, 2, 7, 5]]


def with_palette(folder: Path, indices: np.ndarray, palette: bytes, mask_values: Any = None) -> Truth:
    (folder / "a.png").write_bytes(encode_indexed_png(indices.astype(np.uint8), palette))
    return read_truth(folder, mask_values=mask_values).by_key["a"]


def test_a_palette_of_objects_is_indexed_whatever_is_said_and_few_numbers_need_no_word(tmp_path: Path) -> None:
    numbers = np.where(OBJECT, 1, 0).astype(np.uint8)
    numbers[7] = 255
    for palette in (VOC_PALETTE, GRAY_PALETTE):
        for said in (None, "gray"):
            truth = with_palette(tmp_path, numbers, palette, said)
            assert truth.boxes.tolist() == [[3, 2, 7, 5]]
            assert truth.ignore.sum() == 10
    numbers[7] = 0
    assert saved(tmp_path, numbers).boxes.tolist() == [[3, 2, 7, 5]]


@pytest.mark.parametrize("white", [255, 0])
def test_a_palette_that_shows_ignored_pixels_or_the_background_in_white_is_refused_until_someone_says_which(
    white: int, tmp_path: Path
) -> None:
    grays = np.where(np.arange(256) == white, 255, 0).astype(np.uint8)
    indices = np.where(OBJECT, white, 1 - white // 255)
    palette = grays.repeat(3).tobytes()
    with pytest.raises(UsageError, match="shows 0 or 255 in white; say whether"):
        _ = with_palette(tmp_path, indices, palette).mask
    gray, indexed = (with_palette(tmp_path, indices, palette, said) for said in ("gray", "indexed"))
    assert np.array_equal(gray.mask, OBJECT)
    assert not gray.ignore.any()
    assert np.array_equal(indexed.ignore if white else ~indexed.mask, OBJECT)


def test_suffixes_of_masks_may_be_in_capitals(tmp_path: Path) -> None:
    Image.fromarray(OBJECT).save(tmp_path / "a.png")
    Image.fromarray(OBJECT).save(tmp_path / "b.PNG")
    assert sorted(read_truth(tmp_path)) == ["a", "b"]


def coco(folder: Path, *annotations: dict[str, Any], images: Sequence[dict[str, Any]] = ()) -> Truth:
    rows = [{"id": number, "image_id": 1, "category_id": 1} | item for number, item in enumerate(annotations, 1)]
    image = {"id": 1, "file_name": "a.jpg", "width": 10, "height": 8}
    (folder / "instances.json").write_text(
        json.dumps({"images": [image, *images], "annotations": rows, "categories": []})
    )
    return read_truth(folder).by_key["a"]


SQUARE = [3, 2, 8, 2, 8, 6, 3, 6]
BOX = {"bbox": [3, 2, 5, 4], "segmentation": [SQUARE]}


@pytest.mark.parametrize(
    "empty",
    [
        {"bbox": [0, 0, 0, 0], "segmentation": []},
        {"bbox": [4, 4, 0, 3]},
        {"bbox": [4, 4, 0, 0], "segmentation": [[4, 4, 4, 4, 4, 4]]},
        {"bbox": [4, 4, 0, 0], "segmentation": [[4, 4]]},
        {"bbox": [1, 1, 5, 0], "segmentation": [[1, 1, 6, 1, 3, 1]]},
    ],
)
def test_an_annotation_without_an_area_stops_no_other(empty: dict[str, Any], tmp_path: Path) -> None:
    truth = coco(tmp_path, empty, BOX)
    assert truth.boxes.tolist() == [[3, 2, 7, 5]]
    assert truth.mask is not None
    assert truth.mask.sum() == 20
    assert coco(tmp_path, empty).boxes.shape == (0, 4)


def test_a_flat_polygon_with_a_box_is_a_box_and_an_empty_box_with_a_mask_is_a_mask(tmp_path: Path) -> None:
    flat = coco(tmp_path, {"bbox": [3, 2, 5, 4], "segmentation": [[3, 2, 8, 2, 5, 2]]})
    assert flat.boxes.tolist() == [[3, 2, 7, 5]]
    assert flat.mask is None
    boxless = coco(tmp_path, {"bbox": [0, 0, 0, 0], "segmentation": [SQUARE]})
    assert boxless.boxes.tolist() == [[3, 2, 7, 5]]
    assert boxless.mask is not None


def test_an_object_smaller_than_a_pixel_leaves_the_mask_of_the_others(tmp_path: Path) -> None:
    small = {"bbox": [1, 1, 0.3, 0.3], "segmentation": [[1, 1, 1.3, 1, 1.3, 1.3]]}
    truth = coco(tmp_path, small, BOX)
    assert truth.boxes.tolist() == [[1, 1, 1, 1], [3, 2, 7, 5]]
    assert truth.mask is not None
    assert truth.mask.sum() == 20
    assert coco(tmp_path, small).mask is None


def test_an_image_of_crowds_has_an_empty_mask_where_others_have_masks(tmp_path: Path) -> None:
    """As in a PNG of background and ignored pixels."""
    other = {"image_id": 2, "bbox": [3, 2, 5, 4]}
    extra = {"id": 2, "file_name": "b.jpg", "width": 10, "height": 8}
    for segmentation, has_mask in (([SQUARE], True), ([], False)):
        truth = coco(tmp_path, BOX | {"iscrowd": 1}, other | {"segmentation": segmentation}, images=[extra])
        assert not len(truth.boxes)
        assert truth.ignore.sum() == 20
        assert (truth.mask is not None) == has_mask
        assert truth.mask is None or not truth.mask.any()


def test_of_xml_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    write_xml(tmp_path, [drawn("a"), drawn("b")])
    (tmp_path / "b.xml").rename(tmp_path / "b.XML")
    assert sorted(read_truth(tmp_path)) == ["a", "b"]
