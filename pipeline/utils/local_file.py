"""Files of the user on this machine: their contents, and their hash."""

import hashlib
from pathlib import Path

from schemas.errors import UsageError


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def read_text(path: str | Path) -> str:
    """Return the text of a file, without a byte order mark; every line ends in a line feed alone.

    Args:
        path: of the file.

    Raises:
        UsageError: it cannot be read, or is not text in UTF-8.
    """
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not text in UTF-8; convert it") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def file_sha256(path: str | Path) -> str:
    """Return ``sha256:…`` of the contents of a file that may be larger than memory."""
    with open(path, "rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
