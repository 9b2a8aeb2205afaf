"""Source: a metadata folder of wsolevaluation and the images that it names. Its truth is copied line by line.

Source: Choe et al., CVPR 2020, github.com/clovaai/wsolevaluation.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pipeline.pack.source import (
    ImageFile,
    Source,
    SourceImage,
    image_fault,
    read_lines,
    require_split,
)
from pipeline.read.sample_keys import is_unsafe_key
from pipeline.truth.wsolevaluation import IDS, OBJECTS, SIZES, find_mask_folder
from schemas.errors import UsageError
from schemas.pack import LeftOut

_LABELS = "class_labels.txt"


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read a split.

    Args:
        path: ``metadata/<data set>`` or ``metadata/<data set>/<split>``. The images are in ``dataset/<data set>``
            beside ``metadata``, or in the folder ``images`` of ``path``.
        split: folder in ``path``, unless it is such a folder itself.
        classes: names of the classes; empty for their numbers.

    Raises:
        UsageError: a file is missing or not as described.
    """
    lists = path
    if not (path / IDS).exists():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / IDS).exists()) if path.is_dir() else []
        lists = path / require_split(split, splits, path)
    ids = read_lines(lists / IDS)
    if len(set(ids)) < len(ids):
        raise UsageError(f"{lists / IDS}: names an image twice; remove the second line")
    labels = dict(line.rsplit(",", 1) for line in read_lines(lists / _LABELS) if "," in line)
    root = _find_image_folder(lists, ids)
    images, left_out = [], []
    for image_id in sorted(ids):
        file = root / image_id
        if image_id not in labels or not labels[image_id].strip().isdecimal():
            raise UsageError(f"{lists / _LABELS}: has no class id of {image_id}, which {IDS} names; add it")
        if reason := image_fault(file):
            left_out.append(LeftOut(name=image_id, reason=reason))
            continue
        images.append(SourceImage(image_id, ImageFile(str(file), file.stat().st_size), (int(labels[image_id]),)))
    largest = max((image.class_ids[0] for image in images), default=-1)
    if classes and largest >= len(classes):
        raise UsageError(f"{lists / _LABELS}: has the class id {largest}, but --classes names {len(classes)} classes")
    names = tuple(classes) or tuple(str(number) for number in range(largest + 1))
    write_truth = partial(_write_truth, lists) if (lists / OBJECTS).exists() else None
    return Source(images, names, lists.name, left_out, write_truth=write_truth)


def _find_image_folder(lists: Path, ids: Sequence[str]) -> Path:
    lists = lists.resolve()
    roots = [
        lists / "images",
        lists.parent / "images",
        *(parent / "dataset" / lists.parent.name for parent in lists.parents),
    ]
    roots += [lists, lists.parent]
    for root in roots:
        if any((root / image_id).is_file() for image_id in ids):
            return root
    raise UsageError(f"{lists}: no image of {IDS} is in {', '.join(map(str, roots[:4]))}; link the images there")


def _write_truth(lists: Path, out: Path, new_names: Mapping[str, str]) -> None:
    """Copy the lists with the new names of the images, without those that were left out, and the masks they name."""
    (out / IDS).write_text("".join(f"{new_names[line]}\n" for line in read_lines(lists / IDS) if line in new_names))
    sizes = read_lines(lists / SIZES) if (lists / SIZES).exists() else []
    kept = [(line.rsplit(",", 2)) for line in sizes]
    (out / SIZES).write_text("".join(f"{new_names[row[0]]},{row[1]},{row[2]}\n" for row in kept if row[0] in new_names))
    lines = [line.split(",") for line in read_lines(lists / OBJECTS)]
    masks = bool(lines) and len(lines[0]) == 3
    folder = find_mask_folder(lists, lines[0][1]) if masks else lists
    copied: list[str] = []
    for line in lines:
        if line[0] not in new_names:
            continue
        rest = line[1:]
        if masks:
            rest = [
                _copy_mask(folder, name, out, new_names[line[0]], len(copied), place) for place, name in enumerate(rest)
            ]
        copied.append(",".join([new_names[line[0]], *rest]))
    (out / OBJECTS).write_text("".join(f"{line}\n" for line in copied))


def _copy_mask(folder: Path, name: str, out: Path, image: str, line: int, place: int) -> str:
    if not name:
        return ""
    if is_unsafe_key(name):
        raise UsageError(f"{folder}: {name} leads out of the folder of the masks; correct it")
    new_name = f"masks/{line:07d}_{'ignore' if place else 'object'}.png"
    target = out / new_name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / name, target)
    return new_name
