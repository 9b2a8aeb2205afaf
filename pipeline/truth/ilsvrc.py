"""Reader of ILSVRC boxes: a folder of Pascal VOC XML files, one for each image.

An image is named by the path of its XML file, not by the ``filename`` in it, which is ``%s`` in some files of ILSVRC.
The numbers of ``bndbox`` are kept, as in the metadata of wsolevaluation; see ``pipeline.truth.box_truth``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from pipeline.read.sample_keys import sample_key
from pipeline.truth.box_truth import ImageSize, build_box_truths, refuse_fractions
from pipeline.truth.csv_lines import parse_floats, parse_pixels
from pipeline.truth.truth_set import TruthSet
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

SIDES = ("xmin", "ymin", "xmax", "ymax")


def matches(path: Path) -> bool:
    """Return True if the path is a folder with XML files, at any depth."""
    return path.is_dir() and next(_iter_xml(path), None) is not None


def _iter_xml(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.suffix.lower() == ".xml")


def read(path: Path, separator: KeySeparator = "first-dot") -> TruthSet:
    """Read the truth in a folder.

    Args:
        path: the folder.
        separator: dot of a file name that ends the key of its image.

    Raises:
        UsageError: a file is not XML of this form, or a box cannot be used.
    """
    keys: list[str] = []
    sizes: list[ImageSize] = []
    corners: list[tuple[float, ...]] = []
    image_indices: list[int] = []
    hashes: list[str] = []
    categories: list[frozenset[str]] = []
    files = sorted(_iter_xml(path))
    for index, file in enumerate(files):
        data, name = read_bytes(file), file.relative_to(path).as_posix()
        size, objects = parse_annotation(data, file)
        corners += [item.corners for item in objects]
        image_indices += [index] * len(objects)
        keys.append(sample_key(name, separator))
        sizes.append(size)
        categories.append(frozenset(item.name for item in objects))
        hashes.append(f"{name} {sha256(data)}")

    def describe_box(row: int) -> str:
        return f"{files[image_indices[row]]}: box {row - image_indices.index(image_indices[row]) + 1}"

    digest = sha256("\n".join(hashes).encode())
    boxes = np.array(corners, np.float64).reshape(-1, 4)
    truths = build_box_truths(keys, sizes, boxes, image_indices, describe_box)
    named = (replace(truth, categories=names) for truth, names in zip(truths, categories, strict=True))
    return TruthSet.from_truths(path, digest, named)


@dataclass(frozen=True)
class XmlObject:
    """An object of a Pascal VOC XML file.

    Attributes:
        name: of its class; empty if it has none.
        corners: xmin, ymin, xmax, ymax as stored.
        difficult: whether it is marked so.
    """

    name: str
    corners: tuple[float, ...]
    difficult: bool


def parse_annotation(data: bytes, file: Path) -> tuple[ImageSize, list[XmlObject]]:
    """Return the size of the image, if it is stored, and its objects, in their order.

    Args:
        data: content of the XML file.
        file: its path, for errors.

    Raises:
        UsageError: it is not XML of this form, or its boxes are no pixels.
    """

    def describe_box(index: int) -> str:
        return f"{file}: box {index + 1}"

    root = _parse_xml(data, file)
    elements = root.findall("object")
    boxes = [_find_child(element, "bndbox", file) for element in elements]
    texts = [[_child_text(box, side, file) for side in SIDES] for box in boxes]
    corners = parse_floats(texts, 4, describe_box)
    refuse_fractions(corners, describe_box)
    return _parse_size(root, file), [
        XmlObject(
            name=(element.findtext("name") or "").strip(),
            corners=tuple(numbers),
            difficult=(element.findtext("difficult") or "").strip() == "1",
        )
        for element, numbers in zip(elements, corners.tolist(), strict=True)
    ]


def _parse_xml(data: bytes, file: Path) -> Element:
    """Return the root of an XML file. Refuse a document type: its entities may grow without bound or fetch files."""
    tree, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> NoReturn:
        raise UsageError(f"{file}: has a document type, which annotations do not have; remove it")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # ValueError and LookupError: unknown encodings
        raise UsageError(f"{file}: is not XML ({error})") from None
    root = tree.close()
    if root.tag != "annotation":
        raise UsageError(f"{file}: is XML of {root.tag}, not an annotation; name a folder of annotations only")
    return root


def _find_child(element: Element, name: str, file: Path) -> Element:
    """Return the one child of a name."""
    children = element.findall(name)
    if len(children) != 1:
        fault = f"has {len(children)} {name} elements" if children else f"has no {name}"
        raise UsageError(f"{file}: {element.tag} {fault}; write one")
    return children[0]


def _child_text(element: Element, name: str, file: Path) -> str:
    return (_find_child(element, name, file).text or "").strip()


def _parse_size(root: Element, file: Path) -> ImageSize:
    if root.find("size") is None:
        return None
    size = _find_child(root, "size", file)
    texts = [_child_text(size, name, file) for name in ("width", "height")]
    width, height = map(parse_pixels, texts)
    if not width or not height:
        raise UsageError(f"{file}: its size is {'×'.join(texts)[:60]}; write the size of the image, or remove it")
    return width, height
