"""Source: Pascal VOC, with boxes and, where an image has them, masks of its objects.

Corners of boxes count from 1 there. An object that is marked difficult is ignored, as VOC's own evaluation does. In
``SegmentationObject`` the number of a pixel is the place of its object among the objects of the XML file, and 255 is
the void between objects.

Source: Everingham et al., IJCV 2010, and the development kit.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.pack.source import (
    Annotations,
    Source,
    SourceImage,
    SourceObject,
    box_of_corners,
    class_index,
    find_images,
    read_lines,
    require_split,
)
from pipeline.truth.ilsvrc import parse_annotation
from pipeline.truth.png_file import PngFile
from pipeline.truth.voc import CLASSES
from pipeline.utils.local_file import read_bytes
from schemas.errors import UsageError
from schemas.pack import LeftOut

_VOID = 255


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read a split: a list in ``ImageSets/Main``, else in ``ImageSets/Segmentation``.

    Args:
        path: a folder such as ``VOC2012``, or ``VOCdevkit`` with one of them.
        split: such as ``trainval``.
        classes: names in the order of their ids; empty for the 20 of VOC.

    Raises:
        UsageError: a file is missing or not as described.
    """
    root = _find_root(path)
    sets = [root / "ImageSets" / name for name in ("Main", "Segmentation")]
    # Main also has a list for each class, with a second column.
    lists = {
        file.stem: file for folder in reversed(sets) for file in sorted(folder.glob("*.txt")) if "_" not in file.stem
    }
    split = require_split(split, sorted(lists), root)
    index = class_index((), classes, root, CLASSES)
    found = find_images(root / "JPEGImages")
    by_stem = {Path(name).stem: name for name in found.images}
    images, left_out = [], list(found.left_out)
    for image_id in (line.split()[0] for line in read_lines(lists[split])):
        annotation = root / "Annotations" / f"{image_id}.xml"
        if image_id not in by_stem:
            left_out.append(LeftOut(name=image_id, reason="has no image in JPEGImages"))
        elif not annotation.exists():
            left_out.append(LeftOut(name=image_id, reason="has no XML file in Annotations"))
        else:
            _, objects = parse_annotation(read_bytes(annotation), annotation)
            unknown = next((item.name for item in objects if item.name not in index), None)
            if unknown is not None:
                raise UsageError(f"{annotation}: {unknown!r} is no class of VOC; name the classes by --classes FILE")
            class_ids = sorted({index[item.name] for item in objects if not item.difficult})
            masks = root / "SegmentationObject" / f"{image_id}.png"
            annotate = partial(_annotate, index, annotation, masks if masks.exists() else None)
            images.append(SourceImage(by_stem[image_id], found.images[by_stem[image_id]], tuple(class_ids), annotate))
    return Source(sorted(images, key=lambda image: image.name), tuple(classes or CLASSES), split, left_out)


def _find_root(path: Path) -> Path:
    roots = [folder for folder in (path, *sorted(path.glob("VOC*"))) if (folder / "JPEGImages").is_dir()]
    if not roots:
        raise UsageError(f"{path}: has no folder JPEGImages; name a folder such as VOC2012")
    if roots[0] != path and len(roots) > 1:
        raise UsageError(f"{path}: holds {roots[0].name} and {roots[1].name}; name one of these folders")
    return roots[0]


def _annotate(index: dict[str, int], annotation: Path, masks: Path | None, width: int, height: int) -> Annotations:
    size, objects = parse_annotation(read_bytes(annotation), annotation)
    found = [
        SourceObject(index[item.name], box_of_corners(*(side - 1 for side in item.corners)), ignored=item.difficult)
        for item in objects
    ]
    if masks is None:
        return Annotations(found, size)
    numbers = PngFile.open(masks).values().astype(np.int64)
    if numbers.ndim != 2 or numbers.shape != (height, width):
        raise UsageError(f"{masks}: is not an indexed PNG of {width}×{height} pixels, as its image is; remove it")
    void = numbers == _VOID
    largest = int(np.where(void, 0, numbers).max())
    if largest > len(found):
        raise UsageError(
            f"{masks}: has an object {largest}, but {annotation} has {len(found)} objects; correct one of them"
        )
    masked = [
        SourceObject(item.class_id, item.box, numbers == number, ignored=item.ignored)
        for number, item in enumerate(found, 1)
    ]
    if void.any():
        masked.append(SourceObject(0, None, void, ignored=True))
    return Annotations(masked, size)
