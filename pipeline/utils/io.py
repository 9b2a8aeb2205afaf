"""Paths and URLs to file systems: errors that a person can read, and patience with a network."""

import errno
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import fsspec
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from pipeline.utils.redaction import redact, refuse_credentials
from schemas.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

_TRIES = 6
_LONGEST = 8.0
"""Seconds between two tries, at most; up to half of one at first, and doubling."""
_PATIENCE = 60.0
"""Seconds after which no other try begins."""


def url_to_fs(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, whose every call is made ``with_retries``, and the path in it.

    Raises:
        UsageError: no such protocol, the package for it is not installed, or the URL carries credentials.
    """
    refuse_credentials(url)
    try:
        # Others write here too: a listing that is kept would hide what they wrote.
        files, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url}: {error}") from None
    if "s3" in files.protocol:
        # botocore tries five times, s3fs that five times again, and for what it reads all of that five times:
        # with ``with_retries`` on top, a server that does not answer would be waited for three hours.
        files.retries = 1
        # With more, it asks for the length of whatever it reads first.
        files.max_concurrency = 1
    return _Patient(files), path


def refuse_commands(urls: Iterable[str], allow_pipe: bool) -> None:
    """Let ``pipe:`` pass only where that was said.

    Raises:
        UsageError: one of them runs a shell command, and those were not allowed.
    """
    for url in urls:
        if url.startswith("pipe:") and not allow_pipe:
            raise UsageError(f"{redact(url)}: runs a shell command; say --allow-pipe if that is meant")


class _Patient:
    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what pickle asks for before there is anything
            raise AttributeError(name)
        value = getattr(self._files, name)
        return partial(with_retries, value) if callable(value) else value

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        stream = with_retries(self._files.open, path, mode, **options)
        if hasattr(stream, "cache"):  # it asks for more while it is read
            stream.cache.fetcher = partial(with_retries, stream.cache.fetcher)
        return stream


def with_retries(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a few times, ever later, as long as it is the network that fails.

    Args:
        args: where the first is a path, an error names it.

    Raises:
        OSError: it never succeeded; or at once what the call raised, where another try would not help.
        UsageError: there are no credentials, or the settings of the store make no sense.
    """
    trying = Retrying(
        stop=stop_after_attempt(_TRIES) | stop_after_delay(_PATIENCE),
        wait=wait_random_exponential(0.5, _LONGEST),
        retry=retry_if_exception(is_transient),
        reraise=True,
    )
    try:
        return trying(call, *args, **kwargs)
    except Exception as error:
        if type(error).__name__ in _SETTINGS or isinstance(error, ValueError):  # such as an endpoint without http://
            raise UsageError(f"{redact(str(error))}; see docs/howto/storage.md") from None
        if not is_transient(error):
            raise
        known = error.strerror if isinstance(error, OSError) else None
        reason = redact(known or f"{error} ({type(error).__name__})")
        times = trying.statistics["attempt_number"]
        again = f", {times} times in {trying.statistics['delay_since_first_attempt']:.0f} s" if times > 1 else ""
        raise OSError(errno.EIO, reason + again, *(path for path in args[:1] if isinstance(path, str))) from error


_FINAL = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
PERMANENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Of a full or closed disk: what no second try helps with, and no other worker would fare better."""
_NETWORK = ("aiohttp", "botocore", "urllib3")
_SETTINGS = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError")


def is_transient(error: BaseException) -> bool:
    """Whether it may be over in a moment: a network, a server that is busy."""
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL) and error.errno not in (*PERMANENT_ERRNOS, errno.ENAMETOOLONG)
    return type(error).__module__.partition(".")[0] in _NETWORK and type(error).__name__ not in _SETTINGS
