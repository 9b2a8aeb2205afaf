"""Boxes of ILSVRC: a folder of XML files in the form of Pascal VOC, one for each picture.

A picture is named by the path of its XML file, not by the ``filename`` in it, which says ``%s`` in some of ILSVRC's.
The numbers of ``bndbox`` are kept, as wsolevaluation's metadata does; see ``boxes``.
"""

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pipeline.read.samples import key_of
from pipeline.truth.boxes import Size, box_truths
from pipeline.truth.csv_lines import contents, numbers, pixels
from pipeline.truth.truth import Truths
from schemas.base import sha256
from schemas.errors import UsageError

SIDES = ("xmin", "ymin", "xmax", "ymax")


def there(path: Path) -> bool:
    """Whether a folder holds XML files, however deep."""
    return path.is_dir() and next(path.rglob("*.xml"), None) is not None


def read(path: Path) -> Truths:
    """Truth from a folder.

    Raises:
        UsageError: a file is no XML of this form, or a box cannot be used.
    """
    keys: list[str] = []
    sizes: list[Size] = []
    rows: list[list[str]] = []
    owners: list[int] = []
    hashes: list[str] = []
    files = sorted(path.rglob("*.xml"))
    for place, file in enumerate(files):
        data, name = contents(file), file.relative_to(path).as_posix()
        root = _parse(data, file)
        boxes = [[_text(each, side, file) for side in SIDES] for each in root.iterfind("object/bndbox")]
        if len(boxes) != len(root.findall("object")):
            raise UsageError(f"{file}: an object has no bndbox; add it, or take the object out")
        rows += boxes
        owners += [place] * len(boxes)
        keys.append(key_of(name))
        sizes.append(_size(root, file))
        hashes.append(f"{name} {sha256(data)}")

    def where(row: int) -> str:
        return f"{files[owners[row]]}: box {row - owners.index(owners[row]) + 1}"

    digest = sha256("\n".join(hashes).encode())
    return Truths.gather(path, digest, box_truths(keys, sizes, numbers(rows, 4, where), owners, where))


def _parse(data: bytes, file: Path) -> Element:
    """The root of an XML file. One with a document type is refused: it may define entities, which may grow or fetch."""
    tree, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> NoReturn:
        raise UsageError(f"{file}: has a document type, which annotations have not; take it out")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter of encodings
        raise UsageError(f"{file}: is not XML ({error})") from None
    root = tree.close()
    if root.tag != "annotation":
        raise UsageError(f"{file}: is XML of {root.tag}, not an annotation; name a folder of annotations alone")
    return root


def _text(element: Element, name: str, file: Path) -> str:
    found = element.findtext(name)
    if found is None:
        raise UsageError(f"{file}: {element.tag} has no {name}")
    return found.strip()


def _size(root: Element, file: Path) -> Size:
    size = root.find("size")
    if size is None:
        return None
    texts = [_text(size, name, file) for name in ("width", "height")]
    width, height = map(pixels, texts)
    if not width or not height:
        raise UsageError(f"{file}: its size is {'×'.join(texts)[:60]}; write that of the picture, or none")
    return width, height
