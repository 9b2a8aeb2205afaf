"""Files that stand beside a weights file."""

import os

from schemas.errors import UsageError


def read_beside(path: str, name: str) -> tuple[str, bytes | None]:
    """Read a file in the folder of a weights file.

    Args:
        path: of the weights file.
        name: of the other.

    Returns:
        Path and content of the other file; the content is None if there is none.

    Raises:
        UsageError: it cannot be read.
    """
    file = os.path.join(os.path.dirname(path), name)
    try:
        with open(file, "rb") as stream:
            return file, stream.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return file, None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}; make it readable, or move {path}") from None
