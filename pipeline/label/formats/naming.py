"""Names of files and classes, from names in the data."""

from collections.abc import Collection, Iterable

from pipeline.label.formats.base import ExportContext
from schemas.errors import UsageError


def file_name(name: str, forbidden: str = "") -> str:
    """Return a key or member name as a path below a folder, without the "./" that some shards put in front.

    Args:
        name: name without "..", see ``has_unique_key``.
        forbidden: characters that the lists of a format cannot hold.

    Raises:
        UsageError: a part of the path is empty or a dot, or a character is forbidden or not printable.
    """
    path = name.removeprefix("./")
    if {"", ".", ".."} & set(path.split("/")[:-1]) or not path.isprintable() or set(path) & set(forbidden):
        raise UsageError(f"{name!r}: cannot be the name of a file in this format; rename it, or take png or parquet")
    return path


def unique_class_names(
    class_ids: Iterable[int], context: ExportContext, reserved: Collection[str] = ()
) -> dict[int, str]:
    """Return different names of classes by class id, in order.

    Args:
        class_ids: class ids; repetitions are allowed.
        context: names of all classes.
        reserved: names that no class may have. These, and names that several classes share, get the class id appended.
    """
    names = {}
    for class_id in sorted(set(class_ids)):
        name = context.class_name(class_id)
        shared = name in reserved or context.class_names.count(name) > 1
        names[class_id] = f"{name} ({class_id})" if shared else name
    return names
