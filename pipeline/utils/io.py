"""File systems of paths and URLs, with retries and readable errors."""

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

_MAX_ATTEMPTS = 6
_MAX_WAIT = 8.0
"""Longest wait between two attempts in seconds; at first up to 0.5 s, and doubling."""
_MAX_SECONDS = 60.0
"""Seconds after which no further attempt starts."""


def url_to_fs(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, with retries on every call, and the path in it.

    Raises:
        UsageError: no such protocol, the package for it is not installed, or the URL carries credentials.
    """
    refuse_credentials(url)
    try:
        # Other processes write here too: a cached listing would hide their objects.
        files, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{url}: {error}") from None
    if "s3" in files.protocol:
        # botocore tries five times, s3fs repeats that five times, and reads repeat all of it five times: with
        # ``with_retries`` on top, a server that does not answer would block for three hours.
        files.retries = 1
        # With more, s3fs requests the size of every object before it reads it.
        files.max_concurrency = 1
    return _RetryingFileSystem(files), path


def refuse_commands(urls: Iterable[str], allow_pipe: bool) -> None:
    """Refuse ``pipe:`` URLs unless they are allowed.

    Args:
        urls: URLs of shards.
        allow_pipe: accept shell commands.

    Raises:
        UsageError: a URL runs a shell command.
    """
    for url in urls:
        if url.startswith("pipe:") and not allow_pipe:
            raise UsageError(f"{redact(url)}: runs a shell command; pass --allow-pipe to allow that")


class _RetryingFileSystem:
    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickle asks for these before __init__
            raise AttributeError(name)
        value = getattr(self._files, name)
        return partial(with_retries, value) if callable(value) else value

    def call(self, function: Callable[..., T], path: str, *args: Any) -> T:
        """Call a function of a path, the file system without retries, and further arguments; with retries."""
        return with_retries(function, path, self._files, *args)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        stream = with_retries(self._files.open, path, mode, **options)
        if hasattr(stream, "cache"):  # it fetches more while it is read
            stream.cache.fetcher = partial(with_retries, stream.cache.fetcher)
        return stream


def with_retries(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function, with retries and exponential backoff for transient errors.

    Args:
        call: the function.
        *args: its arguments; if the first is a path, errors name it.
        **kwargs: its keyword arguments.

    Raises:
        OSError: all attempts failed, or an error that no retry can fix, at once.
        UsageError: credentials are missing, or the settings of the store are invalid.
    """
    retrying = Retrying(
        stop=stop_after_attempt(_MAX_ATTEMPTS) | stop_after_delay(_MAX_SECONDS),
        wait=wait_random_exponential(0.5, _MAX_WAIT),
        retry=retry_if_exception(is_transient),
        reraise=True,
    )
    try:
        return retrying(call, *args, **kwargs)
    except Exception as error:
        if type(error).__name__ in _SETTINGS_ERRORS or isinstance(
            error, ValueError
        ):  # such as an endpoint without http://
            raise UsageError(f"{redact(str(error))}; see docs/howto/storage.md") from None
        paths = [path for path in args[:1] if isinstance(path, str)]
        if (status := _http_status(error)) in _REFUSED:
            raise PermissionError(errno.EACCES, f"{_describe(error)}; {_how_to_get_access(error)}", *paths) from error
        if not is_transient(error) and status is None:
            raise
        reason = _describe(error)
        attempts = retrying.statistics["attempt_number"]
        suffix = (
            f", {attempts} times in {retrying.statistics['delay_since_first_attempt']:.0f} s" if attempts > 1 else ""
        )
        raise OSError(errno.EIO, reason + suffix, *paths) from error


_PERMANENT_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
PERMANENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Error numbers of a full or read-only disk: no retry helps, on this worker or another."""
_NETWORK_PACKAGES = ("aiohttp", "botocore", "httpcore", "httpx", "httpx2", "requests", "urllib3")
_REFUSED = (401, 403)
"""HTTP statuses of an object that exists for others only."""
_MAX_REASON = 300
"""Characters of another package's message: some print a page."""
_SETTINGS_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError")


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed, as for a network error or a busy server."""
    status = _http_status(error)
    if status is not None and 400 <= status < 500:
        return status in (408, 425, 429)  # too slow, too early, too many
    if isinstance(error, OSError):
        return not isinstance(error, _PERMANENT_ERRORS) and error.errno not in (*PERMANENT_ERRNOS, errno.ENAMETOOLONG)
    return (
        type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES and type(error).__name__ not in _SETTINGS_ERRORS
    )


def _http_status(error: BaseException) -> int | None:
    """Return the status of the HTTP response that an error is about; None for other errors.

    Each HTTP client has its own classes of errors, and packages for stores derive theirs from these.
    """
    response = getattr(error, "response", None)
    for holder, name in ((response, "status_code"), (error, "status"), (error, "status_code")):
        if isinstance(status := getattr(holder, name, None), int):
            return status
    return None


def _describe(error: Exception) -> str:
    """Return the message of an error as one sentence without secrets."""
    message = error.strerror if isinstance(error, OSError) else None
    text = " ".join((message or f"{error} ({type(error).__name__})").split())
    return redact(text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…")


def _how_to_get_access(error: Exception) -> str:
    if type(error).__module__.startswith("huggingface_hub"):
        return "accept the terms of the repository on the Hub, and set HF_TOKEN"
    return "see docs/howto/storage.md for credentials"
