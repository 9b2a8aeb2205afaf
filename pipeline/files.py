"""Paths and URLs to file systems: errors that a person can read, and patience with a network."""

import errno
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import fsspec
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from schemas.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

_TRIES = 6
_LONGEST = 8.0
"""Seconds between two tries, at most; they begin at a quarter of one and double."""


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


def patiently(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a few times, ever later, as long as it is the network that fails.

    Raises:
        OSError: it never succeeded; or at once what the call raised, where another try would not help.
    """
    trying = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_exponential(0.25, _LONGEST) + wait_random(0, 0.25),
        retry=retry_if_exception(passing),
        reraise=True,
    )
    try:
        return trying(call, *args, **kwargs)
    except Exception as error:
        if not passing(error):
            raise
        raise OSError(errno.EIO, f"{error} ({type(error).__name__}), {_TRIES} times in a row") from error


_FINAL = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Of a full or closed disk: what no second try helps with, and no other worker would fare better."""
_NETWORK = ("aiohttp", "botocore", "urllib3")
_SETTINGS = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError")


def passing(error: BaseException) -> bool:
    """Whether it may be over in a moment: a network, a server that is busy."""
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL) and error.errno not in (*HOPELESS, errno.ENAMETOOLONG)
    return type(error).__module__.partition(".")[0] in _NETWORK and type(error).__name__ not in _SETTINGS
