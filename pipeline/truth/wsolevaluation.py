"""Reader of metadata folders of wsolevaluation: ``metadata/<data set>/<split>``.

``image_ids.txt`` names the images. ``localization.txt`` has their objects: ``id,x0,y0,x1,y1`` for each box, or
``id,mask.png,ignore.png`` for each mask, of which only the first of an image names the ignored pixels.
``image_sizes.txt`` has ``id,width,height``; it is empty or absent where it is not needed, as for OpenImages.

Source: Choe et al., CVPR 2020, github.com/clovaai/wsolevaluation, ``data_loaders.py`` and ``evaluation.py``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.read.sample_keys import is_unsafe_key, sample_key
from pipeline.truth.box_truth import ImageSize, build_box_truths
from pipeline.truth.csv_lines import CsvLine, parse_floats, parse_lines, parse_pixels
from pipeline.truth.openimages_masks import InstanceTruth, require_same_size
from pipeline.truth.png_file import PngFile
from pipeline.truth.truth_set import TruthSet
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

IDS, SIZES, OBJECTS = "image_ids.txt", "image_sizes.txt", "localization.txt"
EXPECTED = f"{IDS} with {OBJECTS}"
_BOX_COLUMNS, _MASK_COLUMNS = ["id", "x0", "y0", "x1", "y1"], ["id", "mask.png", "ignore.png"]
_SIZE_COLUMNS = ["id", "width", "height"]


def matches(path: Path) -> bool:
    """Return True if the path is such a folder."""
    return (path / IDS).is_file() or (path / OBJECTS).is_file()


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a folder.

    Args:
        path: the folder.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: a file is missing, or a line has other columns; an id is in one file and not in the other, or
            twice; a box or a mask cannot be used.
    """
    data = {name: read_bytes(path / name) for name in (IDS, OBJECTS)}
    data[SIZES] = read_bytes(path / SIZES) if (path / SIZES).exists() else b""
    index_by_id = _index_ids(parse_lines(data[IDS], path / IDS), path / IDS)
    sizes = _parse_sizes(parse_lines(data[SIZES], path / SIZES), index_by_id, path / SIZES)
    objects = parse_lines(data[OBJECTS], path / OBJECTS)
    columns = _MASK_COLUMNS if objects and len(objects[0].columns) == len(_MASK_COLUMNS) else _BOX_COLUMNS
    image_indices = _find_images(objects, columns, index_by_id, path / OBJECTS)
    hashes = [f"{name} {sha256(content)}" for name, content in data.items()]
    keys = [sample_key(image_id, separator) for image_id in index_by_id]
    if columns is _BOX_COLUMNS:

        def describe_box(index: int) -> str:
            return f"{path / OBJECTS}, line {objects[index].number}: the box of {objects[index].columns[0]}"

        boxes = parse_floats([line.columns[1:] for line in objects], 4, describe_box)
        box_truths = build_box_truths(keys, sizes, boxes, image_indices, describe_box)
        return TruthSet.from_truths(path, _digest(hashes), box_truths)
    truths = list(_build_mask_truths(path, keys, sizes, objects, image_indices))
    for truth in truths:
        hashes += [png.sha256 for png in (*truth.objects, truth.ignored) if png]
    return TruthSet.from_truths(path, _digest(hashes), truths)


def read_sizes(file: Path, separator: KeySeparator = "first-dot") -> dict[str, tuple[int, int]]:
    """Read a file of sizes such as ``image_sizes.txt``: width and height of each image in pixels, by its key.

    Args:
        file: its path.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: a line has other columns, or an image occurs twice.
    """
    lines = parse_lines(read_bytes(file), file)
    index_by_id = {line.columns[0]: index for index, line in enumerate(lines)}
    sizes = _parse_sizes(lines, index_by_id, file)
    by_key = {sample_key(image_id, separator): sizes[index] for image_id, index in index_by_id.items()}
    if len(by_key) < len(lines):
        raise UsageError(f"{file}: has an image twice; remove one of the lines")
    return {key: size for key, size in by_key.items() if size}


def _digest(hashes: Iterable[str]) -> str:
    return sha256("\n".join(hashes).encode())


def _index_ids(lines: Sequence[CsvLine], file: Path) -> Mapping[str, int]:
    index_by_id: dict[str, int] = {}
    for line in lines:
        image_id = ",".join(line.columns)
        if image_id in index_by_id:
            raise UsageError(f"{file}, line {line.number}: has {image_id} a second time; remove it")
        index_by_id[image_id] = len(index_by_id)
    return index_by_id


def _find_image(line: CsvLine, columns: Sequence[str], index_by_id: Mapping[str, int], file: Path) -> int:
    if len(line.columns) != len(columns):
        raise UsageError(f"{file}, line {line.number}: has {len(line.columns)} columns, not {','.join(columns)}")
    if line.columns[0] not in index_by_id:
        raise UsageError(f"{file}, line {line.number}: {line.columns[0]} is not in {IDS}; add it there")
    return index_by_id[line.columns[0]]


def _parse_sizes(lines: Sequence[CsvLine], index_by_id: Mapping[str, int], file: Path) -> list[ImageSize]:
    sizes: list[ImageSize] = [None] * len(index_by_id)
    for line in lines:
        index = _find_image(line, _SIZE_COLUMNS, index_by_id, file)
        width, height = map(parse_pixels, line.columns[1:])
        if not width or not height:
            raise UsageError(
                f"{file}, line {line.number}: {','.join(line.columns)[:60]} is not a size in pixels; correct it"
            )
        if sizes[index] is not None:
            raise UsageError(f"{file}, line {line.number}: has {line.columns[0]} a second time; remove it")
        sizes[index] = width, height
    if lines:
        _require_all({index for index, size in enumerate(sizes) if size}, index_by_id, f"{file}: has no size of")
    return sizes


def _find_images(
    objects: Sequence[CsvLine], columns: Sequence[str], index_by_id: Mapping[str, int], file: Path
) -> list[int]:
    indices = [_find_image(line, columns, index_by_id, file) for line in objects]
    _require_all(set(indices), index_by_id, f"{file}: has no object of")
    return indices


def _require_all(indices: set[int], index_by_id: Mapping[str, int], fault: str) -> None:
    missing = next((image_id for image_id, index in index_by_id.items() if index not in indices), None)
    if missing is not None:
        raise UsageError(f"{fault} {missing}, which {IDS} names; add it, or remove the image there")


def _build_mask_truths(
    path: Path,
    keys: Sequence[str],
    sizes: Sequence[ImageSize],
    objects: Sequence[CsvLine],
    image_indices: Sequence[int],
) -> Iterator[InstanceTruth]:
    file = path / OBJECTS
    masks: list[list[str]] = [[] for _ in keys]
    ignored = [""] * len(keys)
    for line, index in zip(objects, image_indices, strict=True):
        _, mask, ignore = line.columns
        for name in filter(None, (mask, ignore)):
            if is_unsafe_key(name):
                raise UsageError(f"{file}, line {line.number}: {name} leads out of the folder of the masks; correct it")
        if not mask:
            raise UsageError(f"{file}, line {line.number}: names no mask; add it, or remove the line")
        if masks[index] and ignore:
            fault = "names ignored pixels a second time; name them in the first line of an image only"
            raise UsageError(f"{file}, line {line.number}: {fault}")
        masks[index].append(mask)
        ignored[index] = ignored[index] or ignore
    root = find_mask_folder(path, masks[0][0])
    for index, key in enumerate(keys):
        object_pngs = tuple(PngFile.open(root / name) for name in masks[index])
        ignore_png = PngFile.open(root / ignored[index]) if ignored[index] else None
        require_same_size([png for png in (*object_pngs, ignore_png) if png], sizes[index], key)
        width, height = sizes[index] or (None, None)
        yield InstanceTruth(key, width, height, object_pngs, ignore_png)


def find_mask_folder(path: Path, first: str) -> Path:
    """Return the folder of the masks: beside the metadata, above it, or where the reference unpacks them.

    Args:
        path: the metadata of the split.
        first: name of a mask in it.

    Raises:
        UsageError: it is in none of them.
    """
    split = path.resolve()
    roots = [split, split.parent, *(parent / "dataset" / split.parent.name for parent in list(split.parents)[2:3])]
    for root in roots:
        if (root / first).is_file():
            return root
    raise UsageError(f"{path}: {first} is neither below {', '.join(map(str, roots))}; unpack the masks there")
