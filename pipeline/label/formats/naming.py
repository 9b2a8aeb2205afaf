"""Names out of data, as names of files and of classes."""

from collections.abc import Collection, Iterable

from pipeline.label.formats.base import ExportContext
from schemas.errors import UsageError


def file_name(name: str, forbidden: str = "") -> str:
    """A key or a member of a shard as a path below a folder: without the "./" that some shards put in front.

    Args:
        name: that does not climb; see ``named``.
        forbidden: signs that the lists of a format cannot hold.

    Raises:
        UsageError: a part of the path is empty or a dot, or a sign cannot stand in a list.
    """
    path = name.removeprefix("./")
    if {"", ".", ".."} & set(path.split("/")[:-1]) or not path.isprintable() or set(path) & set(forbidden):
        raise UsageError(f"{name!r}: cannot be the name of a file in this format; rename it, or take png or parquet")
    return path


def class_names(indices: Iterable[int], context: ExportContext, reserved: Collection[str] = ()) -> dict[int, str]:
    """Names of classes by index, in order, each once: what several are called, or is reserved, gets its number."""
    names = {}
    for index in sorted(set(indices)):
        name = context.name(index)
        shared = name in reserved or context.classes.count(name) > 1
        names[index] = f"{name} ({index})" if shared else name
    return names
