"""Source: a file of COCO instances beside its images. An image is labelled with the classes of all its objects.

Class ids are the places of the categories in the order of their ids, which have gaps in COCO. The file is
``annotations/instances_<split>.json``, as COCO has it, or ``<split>/_annotations.coco.json`` with the images beside it,
as Roboflow exports it, or any other that is named.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.pack.source import (
    SPLIT_NAME,
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

_PREFIX, _ROBOFLOW = "instances_", "_annotations.coco.json"


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read a split.

    Args:
        path: folder with such files, or one of them.
        split: such as ``val2017``; images are looked for in a folder of that name.
        classes: names in the order of their ids; empty for the order of the categories.

    Raises:
        UsageError: it is not COCO, two images have one id or one name, or the images are not found.
    """
    file, root, split = _find_file(path, split)
    try:
        content = json.loads(read_bytes(file))
        categories = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        for field in ("id", "file_name"):
            _refuse_twice([image[field] for image in content["images"]], field, file)
        objects: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for item in content["annotations"]:
            objects[item["image_id"]].append(item)
        entries = sorted((str(image["file_name"]), image) for image in content["images"])
        order = list(categories.values())
        index = class_index(order, classes, file, order)
        class_of = {number: index[name] for number, name in categories.items()}
        found = find_images(_find_image_folder(root, file, split, [name for name, _ in entries]), other=("json",))
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
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        name = split or (path.parent.name if path.name == _ROBOFLOW else path.stem.removeprefix(_PREFIX))
        if not SPLIT_NAME.fullmatch(name):
            raise UsageError(f"{path}: is not named by a split; give one of letters, digits, - and _ by --split")
        return path, root, name
    files = sorted(path.glob(f"annotations/{_PREFIX}*.json")) or sorted(path.glob(f"{_PREFIX}*.json"))
    splits = {file.stem.removeprefix(_PREFIX): file for file in files}
    splits |= {file.parent.name: file for file in sorted(path.glob(f"*/{_ROBOFLOW}"))}
    if not splits and (single := first_existing([path / "instances.json", path / _ROBOFLOW])):
        return single, path, split or _find_file(single, None)[2]
    name = require_split(split, list(splits), path)
    return splits[name], splits[name].parent if splits[name].name == _ROBOFLOW else path, name


def _refuse_twice(values: Sequence[Any], field: str, file: Path) -> None:
    value, number = Counter(values).most_common(1)[0] if values else ("", 0)
    if number > 1:
        raise UsageError(f"{file}: two images have the {field} {value!r:.80}; give each its own, or remove one")


def _find_image_folder(root: Path, file: Path, split: str, names: Sequence[str]) -> Path:
    """Return the first usual folder that has an image of the file; if none has, the first one that exists."""
    usual = [root / split, root / "images" / split, root / "images", root / "data", file.parent / split]
    folders = [folder for folder in usual if folder.is_dir()] + [root]
    return next((folder for folder in folders if any((folder / name).exists() for name in names)), folders[0])


def _annotate(size: tuple[int, int], items: Sequence[tuple[int, Any]], width: int, height: int) -> Annotations:
    objects = []
    for class_id, item in items:
        box, ignored = item.get("bbox"), bool(item.get("iscrowd"))
        segmentation = item.get("segmentation") or None
        objects.append(SourceObject(class_id, tuple(box) if box else None, segmentation=segmentation, ignored=ignored))
    return Annotations(objects, size)
