"""Source: CUB-200-2011 as its authors distribute it.

``bounding_boxes.txt`` has x, y, width and height with a decimal point. The box is written with the ends x + width and
y + height, cut to the last pixel, as the metadata of wsolevaluation has the same boxes.

Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, README; Choe et al., CVPR 2020, ``metadata/CUB``.
"""

from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path

from pipeline.pack.source import (
    Annotations,
    Source,
    SourceImage,
    SourceObject,
    box_of_corners,
    class_index,
    find_images,
    first_existing,
    read_columns,
    require_split,
)
from pipeline.truth.png_file import PngFile
from schemas.errors import UsageError
from schemas.pack import LeftOut

_SPLITS = {"1": "train", "0": "test"}


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read a split, ``train`` or ``test``.

    Args:
        path: folder with ``images.txt``, or the folder above it.
        split: name of the split.
        classes: names in the order of their ids; empty for the order of ``classes.txt``.

    Raises:
        UsageError: a file is missing or not as described.
    """
    root = first_existing([folder for folder in (path, path / "CUB_200_2011") if (folder / "images.txt").exists()])
    if root is None:
        raise UsageError(f"{path}: has no images.txt; name the folder CUB_200_2011")
    names = dict(read_columns(root / "images.txt", 2))
    splits = {number: _SPLITS.get(flag, flag) for number, flag in read_columns(root / "train_test_split.txt", 2)}
    wanted = require_split(split, sorted(set(splits.values()), reverse=True), root)
    labels = dict(read_columns(root / "image_class_labels.txt", 2))
    class_names = dict(read_columns(root / "classes.txt", 2))
    if wrong := next((number for number in class_names if not number.isdecimal()), None):
        raise UsageError(f"{root / 'classes.txt'}: {wrong[:80]} is no number of a class; is it the file of this name?")
    order = [class_names[number] for number in sorted(class_names, key=int)]
    index = class_index(order, classes, root, order)
    boxes = _read_boxes(root / "bounding_boxes.txt")
    tables: dict[str, Container[str]] = {
        "train_test_split.txt": splits,
        "image_class_labels.txt": labels,
        "bounding_boxes.txt": boxes,
    }
    masks = first_existing([root / "segmentations", root.parent / "segmentations"])
    found = find_images(root / "images")
    images, left_out = [], list(found.left_out)
    for number, name in names.items():
        for table, rows in tables.items():
            if number not in rows:
                raise UsageError(f"{root / table}: has no line of image {number}, which images.txt names; add it")
        file = found.images.pop(name, None)
        if splits[number] != wanted:
            continue
        if file is None:
            left_out.append(LeftOut(name=name, reason="is named in images.txt, but there is no such image"))
            continue
        if labels[number] not in class_names:
            file_of_labels = root / "image_class_labels.txt"
            raise UsageError(
                f"{file_of_labels}: gives image {number} the class {labels[number]}, which classes.txt lacks"
            )
        class_id = index[class_names[labels[number]]]
        mask = masks / Path(name).with_suffix(".png") if masks else None
        annotate = partial(_annotate, class_id, boxes[number], mask)
        images.append(SourceImage(name, file, (class_id,), annotate))
    left_out += [LeftOut(name=name, reason="is not in images.txt") for name in found.images]
    return Source(sorted(images, key=lambda image: image.name), tuple(classes or order), wanted, left_out)


def _read_boxes(path: Path) -> dict[str, tuple[float, ...]]:
    boxes: dict[str, tuple[float, ...]] = {}
    for number, *texts in read_columns(path, 5):
        try:
            boxes[number] = tuple(map(float, texts))
        except ValueError:
            raise UsageError(f"{path}: the box of image {number} is {' '.join(texts)[:80]}; write numbers") from None
    return boxes


def _annotate(class_id: int, box: tuple[float, ...], mask: Path | None, width: int, height: int) -> Annotations:
    x, y, box_width, box_height = box
    ends = min(int(x + box_width), width - 1), min(int(y + box_height), height - 1)
    pixels = None
    if mask is not None and mask.exists():
        png = PngFile.open(mask)
        pixels = png.gray() > 127  # half of the annotators or more
        if (png.width, png.height) != (width, height):
            raise UsageError(f"{mask}: has {png.width}×{png.height} pixels, its image {width}×{height}; remove it")
    return Annotations([SourceObject(class_id, box_of_corners(int(x), int(y), *ends), pixels)])
