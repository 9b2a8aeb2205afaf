"""Lists that several commands take: names after commas, names of classes in a file."""

from pathlib import Path

from schemas.errors import UsageError


def listed(text: str) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def class_names(file: str | None) -> tuple[str, ...]:
    """Names of classes from a text file, a line each; none without a file.

    Raises:
        UsageError: it cannot be read, or a line is no name.
    """
    if file is None:
        return ()
    try:
        names = Path(file).read_text("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    names = [name.removesuffix("\r") for name in names]
    for number, name in enumerate(names, 1):
        if not name.strip() or not name.isprintable():
            raise UsageError(f"{file}, line {number}: {name!r} is no name of a class")
    return tuple(names)
