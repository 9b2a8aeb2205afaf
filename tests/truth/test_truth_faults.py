"""A truth that means something else than its format says is refused if that is certain, and named if it is likely."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.truth import TruthSet, read_truth
from pipeline.truth.truth_faults import FEW, TruthFaults
from schemas.errors import UsageError

SIZE = 300, 200
Corners = tuple[float, float, float, float]
Write = Callable[[Corners], Sequence[float]]


def boxes(count: int) -> list[Corners]:
    """Corners x0, y0, x1, y1 of objects of many sizes and places, one of them at each border of the image."""
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 0.6, (count, 2)) * SIZE
    end = start + rng.uniform(0.2, 0.4, (count, 2)) * SIZE
    corners = np.rint(np.concatenate([start, end], 1))
    corners[0], corners[-1] = (0, 0, 150, 100), (140, 90, SIZE[0] - 1, SIZE[1] - 1)
    return [tuple(row) for row in corners.tolist()]


def coco(folder: Path, write: Write, count: int = 20, category: Callable[[int], int] = lambda index: 1) -> TruthSet:
    """One box an image, and in the first image one more."""
    written = [list(write(box)) for box in boxes(count)]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(count)],
        "annotations": [
            {"id": i, "image_id": i % count, "bbox": written[i % count], "category_id": category(i)}
            for i in range(count + 1)
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return read_truth(folder / "boxes.json")


def table(folder: Path, write: Write, count: int = 20) -> TruthSet:
    lines = [",".join(map(str, (f"{index}.jpg", *write(box)))) for index, box in enumerate(boxes(count))]
    (folder / "boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *lines]))
    return read_truth(folder / "boxes.csv")


def faults(truths: TruthSet) -> str:
    found = TruthFaults()
    for truth in truths.by_key.values():
        found.add(truth, truth.with_size(*SIZE))
    return " ".join(found.describe(truths.name))


def xywh(box: Corners) -> Sequence[float]:
    return box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1


def percent(box: Corners) -> Sequence[float]:
    return [100 * side / limit for side, limit in zip(box, SIZE * 2, strict=True)]


def shrunk(box: Corners) -> Sequence[float]:
    return [side * 96 / limit for side, limit in zip(box, SIZE * 2, strict=True)]


def test_boxes_as_their_format_has_them_have_no_fault(tmp_path: Path) -> None:
    assert not faults(coco(tmp_path, xywh))
    assert not faults(table(tmp_path, lambda box: box))


def test_corners_under_the_name_of_coco_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"boxes are x0,y0,x1,y1 and not x,y,width,height, as which .*300×200 pixels"):
        coco(tmp_path, lambda box: box)


def test_few_boxes_that_could_be_corners_are_only_named(tmp_path: Path) -> None:
    assert "boxes.json end outside of their image" in faults(coco(tmp_path, lambda box: box, FEW - 2))


@pytest.mark.parametrize(
    "write",
    [
        lambda box: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]),
        lambda box: [2 * side for side in xywh(box)],
    ],
)
def test_centers_and_boxes_of_larger_images_are_named(tmp_path: Path, write: Write) -> None:
    assert "end outside of their image, where they are cut" in faults(coco(tmp_path, write))


@pytest.mark.parametrize("write", [percent, shrunk])
def test_boxes_in_percent_or_of_smaller_images_are_named(tmp_path: Path, write: Write) -> None:
    assert "are they of smaller images, or in percent?" in faults(table(tmp_path, write))


def test_one_box_over_the_border_is_none_of_them(tmp_path: Path) -> None:
    truths = coco(tmp_path, lambda box: (*xywh(box)[:2], 400, 30) if box[2] == SIZE[0] - 1 else xywh(box))
    assert not faults(truths)


def test_objects_of_several_classes_in_an_image_are_counted(tmp_path: Path) -> None:
    assert not faults(coco(tmp_path, xywh, category=lambda index: index % 20))
    assert faults(coco(tmp_path, xywh, category=lambda index: index)).startswith("1 image has objects of several")


def test_classes_in_xml_are_counted(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>290</xmax><ymax>190</ymax></bndbox>"
    objects = [f"<object><name>{name}</name>{box}</object>" for name in ("dog", "dog", "cat")]
    (tmp_path / "a.xml").write_text(f"<annotation>{''.join(objects[:2])}</annotation>")
    assert not faults(read_truth(tmp_path))
    (tmp_path / "b.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    assert "1 image has objects of several classes" in faults(read_truth(tmp_path))


@pytest.mark.parametrize(("count", "named"), [(FEW, True), (FEW - 1, False)])
def test_masks_of_the_background_are_named(tmp_path: Path, count: int, named: bool) -> None:
    for index, (x0, y0, x1, y1) in enumerate(np.array(boxes(count), int)):
        mask = np.zeros(SIZE[::-1], bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
        for folder, written in (("right", mask), ("wrong", ~mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(written).save(tmp_path / folder / f"{index}.png")
    assert not faults(read_truth(tmp_path / "right"))
    assert ("is it the background that they mark?" in faults(read_truth(tmp_path / "wrong"))) == named


def rows_first(mask: np.ndarray) -> list[int]:
    """Lengths of runs along the rows, where COCO has them down the columns."""
    flat = np.concatenate([[0], mask.ravel(), [0]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff([0, *ends, mask.size]).tolist()


def masked(folder: Path, write: Callable[[Corners], object], count: int = FEW) -> TruthSet:
    """One object an image, with its box and a mask."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(count)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": xywh(box), "segmentation": write(box)}
            for i, box in enumerate(boxes(count))
        ],
    }
    (folder / "masks.json").write_text(json.dumps(content))
    return read_truth(folder / "masks.json")


def polygon(box: Corners) -> list[list[float]]:
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def by_rows(box: Corners) -> dict:
    x0, y0, x1, y1 = map(int, box)
    mask = np.zeros(SIZE[::-1], int)
    mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return {"size": list(SIZE[::-1]), "counts": rows_first(mask)}


def fractions(box: Corners) -> list[list[float]]:
    return [[side / SIZE[place % 2] for place, side in enumerate(polygon(box)[0])]]


def swapped(box: Corners) -> list[list[float]]:
    return polygon((box[1], box[0], box[3], box[2]))


def test_masks_inside_of_their_boxes_have_no_fault(tmp_path: Path) -> None:
    def ellipse(box: Corners) -> list[list[float]]:
        center, radius = np.add(box[:2], box[2:]) / 2, np.subtract(box[2:], box[:2]) / 2
        angles = np.linspace(0, 2 * np.pi, 40)
        return [(center + 0.9 * radius * np.stack([np.cos(angles), np.sin(angles)], 1)).ravel().tolist()]

    assert not faults(masked(tmp_path, polygon))
    assert not faults(masked(tmp_path, ellipse))


@pytest.mark.parametrize("write", [by_rows, fractions, swapped])
def test_masks_elsewhere_than_their_boxes_are_refused(tmp_path: Path, write: Callable[[Corners], object]) -> None:
    with pytest.raises(UsageError, match=r"mask and box lie apart in \d+ of 10 objects of masks.json; run"):
        faults(masked(tmp_path, write))
    assert "mask and box lie apart in" in faults(masked(tmp_path, write, FEW - 1))


@pytest.mark.parametrize("ignored", [False, True])
def test_masks_without_background_are_refused(tmp_path: Path, ignored: bool) -> None:
    """Such as trimaps: 1 object, 2 background, 3 border. One image may be full of its object."""
    for index in range(FEW):
        trimap = np.full(SIZE[::-1], 2, np.uint8)
        trimap[20:90, 30:120] = 1
        trimap[90:95] = 255 if ignored else 3
        Image.fromarray(trimap).convert("P").save(tmp_path / f"{index}.png")
    with pytest.raises(UsageError, match=r"none of 10 masks in .* has background, which is 0; write 0 where"):
        faults(read_truth(tmp_path))
    trimap[0, 0] = 0
    Image.fromarray(trimap).convert("P").save(tmp_path / "0.png")
    assert "is it the background that they mark?" in faults(read_truth(tmp_path))


def test_one_image_of_masks_elsewhere_than_their_boxes_has_no_fault(tmp_path: Path) -> None:
    """In a stack of books, boxes include the covered part of each book, masks do not."""
    masked(tmp_path, polygon)
    content = json.loads((tmp_path / "masks.json").read_text())
    hidden = {"image_id": 0, "category_id": 1, "bbox": [10, 10, 200, 150], "segmentation": polygon((15, 15, 40, 40))}
    content["annotations"] = [*({"id": 100 + i} | hidden for i in range(30)), *content["annotations"]]
    (tmp_path / "masks.json").write_text(json.dumps(content))
    assert not faults(read_truth(tmp_path / "masks.json"))


def test_masks_are_looked_at_until_one_has_background(tmp_path: Path) -> None:
    """The first tiles of a slide may all lie in the tumour."""
    for index in range(30):
        Image.fromarray(np.full(SIZE[::-1], index < 29, np.uint8)).convert("P").save(tmp_path / f"{index:02}.png")
    with pytest.raises(UsageError, match=r"none of 29 masks in .* has background"):
        faults(read_truth(tmp_path))
    mask = np.ones(SIZE[::-1], np.uint8)
    mask[:, 100:] = 0
    Image.fromarray(mask).convert("P").save(tmp_path / "29.png")
    assert "is it the background that they mark?" in faults(read_truth(tmp_path))
