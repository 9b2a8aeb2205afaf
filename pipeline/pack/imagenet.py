"""Source: ImageNet (ILSVRC 2012), unpacked or in the tars of its distribution, or in the folders of Kaggle.

The class id is the place of a WordNet id among the sorted ones, as torchvision, timm and wsolevaluation have it. The
ground truth of the validation images counts from 1 in the order of the development kit, which is another: ``meta.mat``
has both. Boxes are XML files, named by the image of their own file name.

Source: Russakovsky et al., IJCV 2015, and readme.txt of the development kit.
"""

import csv
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from pipeline.pack.source import (
    Annotations,
    FoundFiles,
    ImageFile,
    Source,
    SourceImage,
    SourceObject,
    box_of_corners,
    class_index,
    describe_empty,
    find_images,
    first_existing,
    read_lines,
    require_split,
    walk,
)
from pipeline.truth.ilsvrc import parse_annotation
from pipeline.utils.local_file import read_bytes
from schemas.errors import UsageError
from schemas.pack import LeftOut

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SOLUTION, _SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def read(path: Path, split: str | None, classes: Sequence[str]) -> Source:
    """Read ``train`` or ``val``.

    Args:
        path: the folder that holds the split, as ``val``, ``ILSVRC2012_img_val.tar`` or ``ILSVRC/Data/CLS-LOC/val``.
        split: name of the split.
        classes: WordNet ids in the order of the class ids; empty for sorted order.

    Raises:
        UsageError: the images, or the labels of flat validation images, are not found.
    """
    places = {name: place for name in ("train", "val") if (place := _find_split(path, name))}
    split = require_split(split, list(places), path)
    place = places[split]
    found = _read_images(place)
    synsets = _read_synsets(path)
    in_folders = all("/" in name for name in found.images)
    labels = {} if in_folders else _read_validation_labels(path, found, synsets)
    folder_of = {name: name.split("/")[0] if in_folders else labels.get(Path(name).stem) for name in found.images}
    folders = {folder for folder in folder_of.values() if folder}
    names = sorted(set(synsets.values()) or folders)
    if folders - set(names):
        raise UsageError(
            f"{path}: {min(folders - set(names))} is no WordNet id of the development kit; remove the folder"
        )
    index = class_index(names, classes, path)
    boxes = _find_boxes(path, split, place)
    left_out, images = list(found.left_out), []
    for name, file in sorted(found.images.items()):
        folder, box_file = folder_of[name], boxes.pop(Path(name).stem, None)
        if folder is None:
            left_out.append(LeftOut(name=name, reason=f"has no line in {_GROUND_TRUTH}"))
            continue
        annotate = partial(_annotate, index, index[folder], box_file) if box_file else None
        images.append(SourceImage(name, file, (index[folder],), annotate))
    left_out += [LeftOut(name=file.name, reason="has boxes of an image that is not there") for file in boxes.values()]
    order = tuple(classes or names)
    used = {image.class_ids[0] for image in images}
    notes = describe_empty([name for name in order if index[name] not in used])
    return Source(images, order, split, left_out, notes)


def _find_split(path: Path, split: str) -> Path | None:
    folders = [path / split, path / "ILSVRC" / "Data" / "CLS-LOC" / split, path / "Data" / "CLS-LOC" / split]
    return first_existing([*folders, path / f"ILSVRC2012_img_{split}", path / f"ILSVRC2012_img_{split}.tar"])


def _read_images(place: Path) -> FoundFiles:
    """Find the images in a folder, in a tar, or in the tars of the classes within either."""
    if place.is_file():
        found = FoundFiles()
        for name, file in _members(place, 0, place.name):
            _add(found, name, file)
        return found
    found = find_images(place, other=("tar", "xml"))
    for archive in sorted(place.glob("*.tar")):
        for name, file in _members(archive, 0, archive.name):
            _add(found, f"{archive.stem}/{name}", file)
    return found


def _add(found: FoundFiles, name: str, file: ImageFile) -> None:
    if file.size:
        found.images[name] = file
    else:
        found.left_out.append(LeftOut(name=name, reason="is empty"))


def _members(archive: Path, start: int, name: str, size: int | None = None) -> Iterator[tuple[str, ImageFile]]:
    """Yield name and place of the images in a tar, which may itself be a member of a tar that begins at ``start``."""
    try:
        with open(archive, "rb") as stream:
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    # Offsets that tarfile gives count from the beginning of the file.
                    if member.name.endswith(".tar"):
                        for inner, file in _members(archive, member.offset_data, member.name, member.size):
                            yield f"{Path(member.name).stem}/{inner}", file
                    else:
                        yield member.name.removeprefix("./"), ImageFile(str(archive), member.size, member.offset_data)
    except tarfile.TarError as error:
        raise UsageError(f"{archive}: {name} is not a tar ({error}); unpack the distribution again") from None


def _read_synsets(path: Path) -> dict[int, str]:
    """Return the WordNet id of each class id of the development kit, which counts from 1; empty if there is none."""
    if mapping := first_existing([path / _SYNSETS]):
        return dict(enumerate((line.split()[0] for line in read_lines(mapping)), 1))
    kit = _find_kit(path)
    if kit is None or not (kit / "meta.mat").exists():
        return {}
    try:
        synsets: Any = loadmat(kit / "meta.mat", squeeze_me=True, struct_as_record=False)["synsets"]
        leaves = [synset for synset in synsets.ravel() if not int(synset.num_children)]
        return {int(synset.ILSVRC2012_ID): str(synset.WNID) for synset in leaves}
    except Exception as error:  # loadmat raises errors of any type on a damaged file
        raise UsageError(f"{kit / 'meta.mat'}: has no synsets as in the development kit ({error})") from None


def _find_kit(path: Path) -> Path | None:
    kits = [path / "ILSVRC2012_devkit_t12" / "data", path / "devkit" / "data", path / "data", path]
    return next((kit for kit in kits if (kit / _GROUND_TRUTH).exists()), None)


def _read_validation_labels(path: Path, found: FoundFiles, synsets: dict[int, str]) -> dict[str, str]:
    """Return the WordNet id of each validation image by its file name without extension."""
    if solution := first_existing([path / _SOLUTION]):
        return _read_solution(solution)
    kit = _find_kit(path)
    if kit is None or not synsets:
        what = _GROUND_TRUTH if kit is None else "meta.mat"
        raise UsageError(
            f"{path}: its images are in no folders of classes, and {what} is not found; unpack "
            "ILSVRC2012_devkit_t12.tar.gz there"
        )
    lines = read_lines(kit / _GROUND_TRUTH)
    ids = [int(line) if line.isdecimal() and len(line) < 10 else line for line in lines]
    unknown = next((number for number in ids if number not in synsets), None)
    if unknown is not None:
        raise UsageError(
            f"{kit / _GROUND_TRUTH}: {str(unknown)[:80]} is no class of meta.mat; use both of one development kit"
        )
    if len(found.images) > len(ids):
        raise UsageError(
            f"{kit / _GROUND_TRUTH}: has {len(ids)} lines for {len(found.images)} images; use that of ILSVRC 2012"
        )
    return {f"ILSVRC2012_val_{number:08d}": synsets[int(class_id)] for number, class_id in enumerate(ids, 1)}


def _read_solution(path: Path) -> dict[str, str]:
    """Return the WordNet id of each image in Kaggle's table: the first word of ``PredictionString``."""
    rows = list(csv.DictReader(read_lines(path)))
    labels = {row.get("ImageId") or "": (row.get("PredictionString") or "").split()[:1] for row in rows}
    if not labels or not all(image and label for image, label in labels.items()):
        raise UsageError(f"{path}: is not a table of ImageId and PredictionString; use that of Kaggle")
    return {image: label for image, (label,) in labels.items()}


def _find_boxes(path: Path, split: str, place: Path) -> dict[str, Path]:
    """Return the XML file of each image by its name without extension."""
    folders = [
        *(root / "Annotations" / "CLS-LOC" / split for root in (path, path / "ILSVRC")),
        *(
            path / folder / split
            for folder in ("bbox", "boxes", f"ILSVRC2012_bbox_{split}_v3", f"ILSVRC2012_bbox_{split}_v2")
        ),
        *(path / folder for folder in (f"ILSVRC2012_bbox_{split}_v3", f"ILSVRC2012_bbox_{split}_v2", f"bbox_{split}")),
        place,
    ]
    for folder in folders:
        if folder.is_dir() and (files := [file for file in walk(folder) if file.suffix.lower() == ".xml"]):
            by_stem: dict[str, Path] = {}
            for file in files:
                if file.stem in by_stem:
                    raise UsageError(f"{folder}: has {file.name} twice; each image has one file of boxes")
                by_stem[file.stem] = file
            return by_stem
    return {}


def _annotate(index: dict[str, int], class_id: int, file: Path, width: int, height: int) -> Annotations:
    """Read the boxes of an image; an object of a class that has no id counts as one of the image's class."""
    size, objects = parse_annotation(read_bytes(file), file)
    boxes = [SourceObject(index.get(item.name, class_id), box_of_corners(*item.corners)) for item in objects]
    return Annotations(boxes, size)
