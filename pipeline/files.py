"""Paths and URLs to file systems, with errors that a person can read."""

from typing import Any

import fsspec

from schemas.errors import UsageError


def locate(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    Raises:
        UsageError: no such protocol, or the package for it is not installed.
    """
    try:
        files, path = fsspec.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url}: {error}") from None
    return files, path
