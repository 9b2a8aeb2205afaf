"""Source: a file of COCO instances beside its images. An image is labelled with the classes of all its objects.

Class ids are the places of the categories in the order of their ids, which have gaps in COCO.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.pack.source import (
    Annotations,
    Source,
    SourceImage,
    SourceObject,
    class_index,
    find_images,
    first_existing,
    require_split,
)
from pipeline.utils.local_file import read_bytes
from schemas.errors import UsageError
from schemas.pack import LeftOut

_PREFIX = "instances_"


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read a split.

    Args:
        path: folder with ``annotations/instances_<split>.json``, or such a file.
        split: such as ``val2017``; images are looked for in a folder of that name.
        classes: names in the order of their ids; empty for the order of the categories.

    Raises:
        UsageError: it is not COCO, or the images are not found.
    """
    file, root, split = _find_file(path, split)
    try:
        content = json.loads(read_bytes(file))
        categories = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        objects: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for item in content["annotations"]:
            objects[item["image_id"]].append(item)
        entries = sorted((str(image["file_name"]), image) for image in content["images"])
        order = list(categories.values())
        index = class_index(order, classes or order, file)
        class_of = {number: index[name] for number, name in categories.items()}
        folder = first_existing([root / split, root / "images" / split, root / "images", file.parent / split]) or root
        found = find_images(folder, other=("json",))
        images, left_out = [], list(found.left_out)
        for name, image in entries:
            if name not in found.images:
                left_out.append(LeftOut(name=name, reason=f"is in {file.name}, but there is no such image"))
                continue
            items = objects[image["id"]]
            class_ids = sorted({class_of[item["category_id"]] for item in items if not item.get("iscrowd")})
            size = int(image["width"]), int(image["height"])
            annotate = partial(_annotate, size, [(class_of[item["category_id"]], item) for item in items])
            images.append(SourceImage(name, found.images.pop(name), tuple(class_ids), annotate))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file}: is not a COCO file of instances ({type(error).__name__}: {error})") from None
    left_out += [LeftOut(name=name, reason=f"is not in {file.name}") for name in found.images]
    return Source(images, tuple(classes or order), split, left_out)


def _find_file(path: Path, split: str | None) -> tuple[Path, Path, str]:
    """Return the file, the folder that its images are searched in, and the name of the split."""
    if path.is_file():
        name = split or path.stem.removeprefix(_PREFIX)
        return path, path.parent.parent if path.parent.name == "annotations" else path.parent, name
    files = sorted(path.glob(f"annotations/{_PREFIX}*.json")) or sorted(path.glob(f"{_PREFIX}*.json"))
    splits = {file.stem.removeprefix(_PREFIX): file for file in files}
    if not splits and (path / "instances.json").exists():
        return path / "instances.json", path, split or "instances"
    name = require_split(split, list(splits), path)
    return splits[name], path, name


def _annotate(size: tuple[int, int], items: Sequence[tuple[int, Any]], width: int, height: int) -> Annotations:
    objects = []
    for class_id, item in items:
        box, ignored = item.get("bbox"), bool(item.get("iscrowd"))
        segmentation = item.get("segmentation") or None
        objects.append(SourceObject(class_id, tuple(box) if box else None, segmentation=segmentation, ignored=ignored))
    return Annotations(objects, size)
