"""Names of files and classes, from names in the data."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable

from pipeline.label.formats.base import ExportContext
from schemas.errors import UsageError

_MAX_PART, _MAX_PATH = 200, 700
"""Bytes of a part of a path, and of all of it, beside which an extension and a folder find room: file systems allow 255
bytes in a part, and object stores 1,024 in a path."""
_SHORTENED = re.compile(r"~[0-9a-f]{32}(\.\w{1,8})?$")


def file_name(name: str, forbidden: str = "") -> str:
    """Return a key or member name as a path below a folder, without the "./" that some shards put in front.

    A name that is too long for a file becomes its beginning, ``~`` and 32 digits of its SHA-256, without folders. So
    does a name that looks like one of these, lest two samples get one file.

    Args:
        name: name without "..", see ``has_unique_key``.
        forbidden: characters that the lists of a format cannot hold.

    Raises:
        UsageError: a part of the path is empty or a dot, or a character is forbidden or not printable.
    """
    path = name.removeprefix("./")
    if {"", ".", ".."} & set(path.split("/")[:-1]) or not path.isprintable() or set(path) & set(forbidden):
        raise UsageError(f"{name!r}: cannot be the name of a file in this format; rename it, or take png or parquet")
    parts = path.split("/")
    fits = len(path.encode()) <= _MAX_PATH and max(len(part.encode()) for part in parts) <= _MAX_PART
    if fits and not _SHORTENED.search(path):
        return path
    stem, extension = re.fullmatch(r"(.*?)((?:\.\w{1,8})?)", parts[-1]).groups()  # type: ignore[union-attr]
    beginning = stem.encode()[: _MAX_PART - 50].decode(errors="ignore")
    return f"{beginning}~{hashlib.sha256(path.encode()).hexdigest()[:32]}{extension}"


def unique_class_names(
    class_ids: Iterable[int], context: ExportContext, reserved: Collection[str] = ()
) -> dict[int, str]:
    """Return different names of classes by class id, in order.

    Args:
        class_ids: class ids; repetitions are allowed.
        context: names of all classes.
        reserved: names that no class may have. These, and names that several classes share, get the class id appended.
    """
    names, counts = {}, Counter(context.class_names)
    for class_id in sorted(set(class_ids)):
        name = context.class_name(class_id)
        shared = name in reserved or counts[name] > 1
        names[class_id] = f"{name} ({class_id})" if shared else name
    return names
