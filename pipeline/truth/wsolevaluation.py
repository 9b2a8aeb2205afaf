"""Metadata folders of wsolevaluation: ``metadata/<data set>/<split>``.

``image_ids.txt`` names the pictures. ``localization.txt`` has their objects: ``id,x0,y0,x1,y1`` for each box, or
``id,mask.png,ignore.png`` for each mask, of which only the first of a picture names what is ignored.
``image_sizes.txt`` has ``id,width,height``; it is empty or absent where nobody needs it, as for OpenImages.

Source: Choe et al., CVPR 2020, github.com/clovaai/wsolevaluation, ``data_loaders.py`` and ``evaluation.py``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.read.loader import climbs
from pipeline.read.samples import key_of
from pipeline.truth.boxes import Size, box_truths
from pipeline.truth.csv_lines import Line, contents, lines, numbers, pixels
from pipeline.truth.openimages_masks import InstanceTruth, one_size
from pipeline.truth.png_file import Png
from pipeline.truth.truth import Truths
from schemas.base import sha256
from schemas.errors import UsageError

IDS, SIZES, OBJECTS = "image_ids.txt", "image_sizes.txt", "localization.txt"
_BOX, _MASK, _SIZE = ["id", "x0", "y0", "x1", "y1"], ["id", "mask.png", "ignore.png"], ["id", "width", "height"]

Places = Mapping[str, int]
"""Places of the pictures, by id."""


def there(path: Path) -> bool:
    """Whether this is such a folder."""
    return (path / IDS).is_file() or (path / OBJECTS).is_file()


def read(path: Path) -> Truths:
    """Truth from a folder.

    Raises:
        UsageError: a file is missing, or a line has other columns; an id stands in one file and not in the other, or
            twice; a box or a mask cannot be used.
    """
    data = {name: contents(path / name) for name in (IDS, OBJECTS)}
    data[SIZES] = contents(path / SIZES) if (path / SIZES).exists() else b""
    places = _places(lines(data[IDS], path / IDS), path / IDS)
    sizes = _sizes(lines(data[SIZES], path / SIZES), places, path / SIZES)
    objects = lines(data[OBJECTS], path / OBJECTS)
    columns = _MASK if objects and len(objects[0].columns) == len(_MASK) else _BOX
    owners = _owners(objects, columns, places, path / OBJECTS)
    hashes = [f"{name} {sha256(each)}" for name, each in data.items()]
    keys = [key_of(image) for image in places]
    if columns is _BOX:

        def where(place: int) -> str:
            return f"{path / OBJECTS}, line {objects[place].number}: the box of {objects[place].columns[0]}"

        boxes = numbers([line.columns[1:] for line in objects], 4, where)
        return Truths.gather(path, _digest(hashes), box_truths(keys, sizes, boxes, owners, where))
    truths = list(_masks(path, keys, sizes, objects, owners))
    for truth in truths:
        hashes += [png.sha256 for png in (*truth.objects, truth.ignored) if png]
    return Truths.gather(path, _digest(hashes), truths)


def _digest(hashes: Iterable[str]) -> str:
    return sha256("\n".join(hashes).encode())


def _places(table: Sequence[Line], file: Path) -> Places:
    places: dict[str, int] = {}
    for line in table:
        image = ",".join(line.columns)
        if image in places:
            raise UsageError(f"{file}, line {line.number}: has {image} again; take it out")
        places[image] = len(places)
    return places


def _place(line: Line, columns: Sequence[str], places: Places, file: Path) -> int:
    """Whose line it is."""
    if len(line.columns) != len(columns):
        raise UsageError(f"{file}, line {line.number}: has {len(line.columns)} columns, not {','.join(columns)}")
    if line.columns[0] not in places:
        raise UsageError(f"{file}, line {line.number}: {line.columns[0]} is not in {IDS}; add it there")
    return places[line.columns[0]]


def _sizes(table: Sequence[Line], places: Places, file: Path) -> list[Size]:
    sizes: list[Size] = [None] * len(places)
    for line in table:
        place = _place(line, _SIZE, places, file)
        width, height = map(pixels, line.columns[1:])
        if not width or not height:
            raise UsageError(f"{file}, line {line.number}: {','.join(line.columns)[:60]} is not a size in pixels")
        if sizes[place] is not None:
            raise UsageError(f"{file}, line {line.number}: has {line.columns[0]} again; take it out")
        sizes[place] = width, height
    if table:
        _complete({place for place, size in enumerate(sizes) if size}, places, f"{file}: has no size of")
    return sizes


def _owners(objects: Sequence[Line], columns: Sequence[str], places: Places, file: Path) -> list[int]:
    owners = [_place(line, columns, places, file) for line in objects]
    _complete(set(owners), places, f"{file}: has no object of")
    return owners


def _complete(found: set[int], places: Places, lacks: str) -> None:
    missing = next((image for image, place in places.items() if place not in found), None)
    if missing is not None:
        raise UsageError(f"{lacks} {missing}, which {IDS} names; add it, or take the picture out there")


def _masks(
    path: Path, keys: Sequence[str], sizes: Sequence[Size], objects: Sequence[Line], owners: Sequence[int]
) -> Iterator[InstanceTruth]:
    file = path / OBJECTS
    masks: list[list[str]] = [[] for _ in keys]
    ignored = [""] * len(keys)
    for line, place in zip(objects, owners, strict=True):
        _, mask, ignore = line.columns
        for name in filter(None, (mask, ignore)):
            if climbs(name):
                raise UsageError(f"{file}, line {line.number}: {name} leads out of the folder of the masks")
        if not mask:
            raise UsageError(f"{file}, line {line.number}: names no mask")
        if masks[place] and ignore:
            what = "names what is ignored again; leave that to the first line of a picture"
            raise UsageError(f"{file}, line {line.number}: {what}")
        masks[place].append(mask)
        ignored[place] = ignored[place] or ignore
    root = _root(path, masks[0][0])
    for place, key in enumerate(keys):
        pngs = tuple(Png.open(root / name) for name in masks[place])
        rest = Png.open(root / ignored[place]) if ignored[place] else None
        one_size([png for png in (*pngs, rest) if png], sizes[place], key)
        width, height = sizes[place] or (None, None)
        yield InstanceTruth(key, width, height, pngs, rest)


def _root(path: Path, first: str) -> Path:
    """The folder of the masks: beside the metadata, above it, or where the reference unpacks them."""
    split = path.resolve()
    roots = [split, split.parent, *(each / "dataset" / split.parent.name for each in list(split.parents)[2:3])]
    for root in roots:
        if (root / first).is_file():
            return root
    raise UsageError(f"{path}: {first} is neither below {', '.join(map(str, roots))}; unpack the masks there")
