"""The bytes of a tar, wherever it lies and however it is packed, from its beginning to its end.

Two things can go wrong, and they are told apart by where they happen. What is read is not what it should be:
``Damage``, and trying again is of no use. Or it does not come, from a disk or over a network: ``OSError``, and
the next attempt may have it.
"""

import errno
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.compression import compr

from pipeline.utils.io import url_to_fs

_PIECE = 1 << 20
_PACKED = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "lzma": re.compile(rb"\]\0\0\x80"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
"""How files that are packed begin, under fsspec's names."""
_NOT_THERE = {
    FileNotFoundError: "there is no such file",
    NotADirectoryError: "there is no such file",
    IsADirectoryError: "it is a folder",
    PermissionError: "permission denied",
}


class Damage(Exception):
    """A tar that cannot be used from here on; the message says what is wrong with it."""


class Cut(Damage):
    """It ends too early. What is in front of its end is as it was packed."""


class Stream:
    """Bytes in one direction, unpacked.

    Attributes:
        size: of the file as it is stored; −1 where that cannot be known.
        packed: it is compressed.
        position: bytes that were read or skipped.
    """

    def __init__(self, source: "_Source") -> None:
        self.size, self.position = source.size, 0
        self._bytes: Any = io.BufferedReader(source)
        start = self._bytes.peek(16)
        packing = next((name for name, begins in _PACKED.items() if begins.match(start)), None)
        self.packed = packing is not None
        if packing is not None:
            if packing not in compr:
                raise Damage(f"it is packed by {packing}, which is not known here; install zstandard")
            self._bytes = compr[packing](self._bytes, mode="rb")

    def read(self, count: int) -> bytes:
        """So many bytes; fewer only at the end."""
        try:
            data: bytes = self._bytes.read(count)
        except EOFError:
            raise Cut("it is truncated") from None
        except Damage:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # Decompressors have no common error, and some raise OSError; one of the source has a number.
            raise Damage(f"{str(error).strip()} ({type(error).__name__})") from error
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """Leave out so many bytes.

        Raises:
            Cut: there are not as many.
        """
        end = self.position + count
        if self.size >= 0 and not self.packed:
            if end > self.size:
                raise Cut("it is truncated")
            self._bytes.seek(end)
            self.position = end
        while self.position < end:
            if not self.read(min(_PIECE, end - self.position)):
                raise Cut("it is truncated")


@contextmanager
def opened(url: str) -> Iterator[Stream]:
    """The bytes of a path, an fsspec URL or the output of a ``pipe:``.

    Raises:
        Damage: there is no such file, or it may not be read.
        OSError: it does not come; see ``Stream``.
    """
    stream: Any
    piped = url.startswith("pipe:")
    if piped:
        import webdataset  # it brings torch, which whoever only labels and scores does without

        stream = webdataset.gopen(url, "rb")
    elif "://" not in url:
        with _named(url):
            stream = io.FileIO(url)
    else:
        files, path = url_to_fs(url)
        with _named(url):
            stream = files.open(path, "rb")
    try:
        yield Stream(_Source(stream, url, piped))
    finally:
        if piped:
            stream.ignore_errors = True  # its status counts where its output ends; here it is merely told to go
        stream.close()


class _Source(io.RawIOBase):
    """A stored file, each of whose failures is an ``OSError`` with a number and the URL."""

    def __init__(self, stream: Any, url: str, piped: bool) -> None:
        self._stream, self._url, self._piped = stream, url, piped
        self.size = -1 if piped else self._measure()

    def _measure(self) -> int:
        with _named(self._url):
            try:
                self._stream.seek(0, io.SEEK_END)
            except ValueError:  # as fsspec says that a server sends a file only in one go
                return -1
            size = int(self._stream.tell())
            self._stream.seek(0)
            return size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size >= 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _named(self._url):
            self._stream.seek(offset, whence)
            return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        filled = 0
        with _named(self._url):
            while filled < len(buffer):
                data = self._stream.read(len(buffer) - filled)
                if not data:
                    if self._piped:
                        self._stream.wait_for_child()  # raises where the command failed
                    break
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        return filled


@contextmanager
def _named(url: str) -> Iterator[None]:
    try:
        yield
    except tuple(_NOT_THERE) as error:
        raise Damage(next(reason for kind, reason in _NOT_THERE.items() if isinstance(error, kind))) from error
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error) or type(error).__name__, url) from error
    except Exception as error:  # clients of stores have errors of their own
        raise OSError(errno.EIO, f"{error} ({type(error).__name__})", url) from error
