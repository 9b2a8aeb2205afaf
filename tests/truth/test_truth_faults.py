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
