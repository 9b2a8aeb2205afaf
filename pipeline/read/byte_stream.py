"""Bytes of a tar, local or remote, decompressed.

Two kinds of failure are kept apart. The contents are wrong: ``CorruptTarError``, and another attempt is of no use. Or
a disk or a network fails: ``OSError``, and another attempt may succeed.
"""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.read.sample_keys import escape_bytes
from pipeline.utils.io import url_to_fs
from schemas.shard_record import SourceRecord

_CHUNK = 1 << 20
_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[Any], Any]], ...] = (
    (re.compile(rb"\x1f\x8b"), lambda source: gzip.GzipFile(fileobj=source)),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), lambda source: _open_streams(source, bz2.BZ2Decompressor)),
    (re.compile(rb"\xfd7zXZ\0|\]\0\0\x80"), lambda source: _open_streams(source, lzma.LZMADecompressor)),
    (
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a skippable frame may be in front
        lambda source: _ZstdReader(source),
    ),
)
"""First bytes, and reader of all that was compressed one after another into one file, of gzip, bzip2, xz and zstd."""
_UNAVAILABLE = {
    FileNotFoundError: "there is no such file",
    NotADirectoryError: "there is no such file",
    IsADirectoryError: "it is a folder",
    PermissionError: "permission denied",
}


class CorruptTarError(Exception):
    """A tar that cannot be read from here on; the message says what is wrong with it.

    Args:
        message: bytes of names that are not UTF-8 are escaped in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escape_bytes(message))


class TruncatedTarError(CorruptTarError):
    """A tar that ends too early. Everything before its end is intact."""


class ByteStream:
    """Decompressed bytes, forward only.

    Attributes:
        size: of the stored file in bytes; −1 if unknown.
        compressed: the stored file is compressed.
        position: bytes that were read or skipped.
    """

    def __init__(self, source: "_Source") -> None:
        self.size, self.position = source.size, 0
        self._bytes: Any = io.BufferedReader(source)
        start = self._bytes.peek(16)
        decompress = next((reader for magic, reader in _FORMATS if magic.match(start)), None)
        self.compressed = decompress is not None
        if decompress is not None:
            self._bytes = decompress(self._bytes)

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes; fewer only at the end.

        Raises:
            CorruptTarError: the compressed data is truncated or invalid.
            OSError: a disk or a network fails.
        """
        try:
            data: bytes = self._bytes.read(count)
        except EOFError:
            raise TruncatedTarError("it is truncated") from None
        except CorruptTarError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # Decompressors have no common error, and some raise OSError; one of the source has an errno.
            raise CorruptTarError(f"{str(error).strip()} ({type(error).__name__})") from error
        self.position += len(data)
        return data

    def skip(self, count: int) -> None:
        """Skip ``count`` bytes.

        Raises:
            TruncatedTarError: there are fewer.
        """
        end = self.position + count
        if self.size >= 0 and not self.compressed:
            if end > self.size:
                raise TruncatedTarError("it is truncated")
            self._bytes.seek(end)
            self.position = end
        while self.position < end:
            if not self.read(min(_CHUNK, end - self.position)):
                raise TruncatedTarError("it is truncated")


def _open_streams(source: io.BufferedReader, make_decompressor: Callable[[], Any]) -> io.BufferedReader:
    return io.BufferedReader(_StreamReader(source, make_decompressor))


class _StreamReader(io.RawIOBase):
    """Decompressed bytes of streams one after another, to the end of the file: what follows a stream is never ignored.

    Args:
        source: compressed.
        make_decompressor: of the standard library, for one stream.
    """

    def __init__(self, source: io.BufferedReader, make_decompressor: Callable[[], Any]) -> None:
        self._source, self._make_decompressor, self._decompressor = source, make_decompressor, make_decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if self._decompressor.eof:
                following = self._decompressor.unused_data.lstrip(b"\0") or self._read_nonzero()
                if not following:
                    return 0
                self._decompressor = self._make_decompressor()
            else:
                following = self._source.read1() if self._decompressor.needs_input else b""
                if not following and self._decompressor.needs_input:
                    raise EOFError
            data = self._decompressor.decompress(following, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read_nonzero(self) -> bytes:
        """Skip padding; return what follows it, empty at the end of the file."""
        while block := self._source.read1():
            if following := block.lstrip(b"\0"):
                return following
        return b""


class _ZstdReader:
    """Decompressed bytes of zstd frames one after another, read by Arrow.

    Args:
        source: compressed.
    """

    def __init__(self, source: io.BufferedReader) -> None:
        import pyarrow  # slow to import, and such shards are rare

        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(source, "r"), "zstd")

    def read(self, count: int) -> bytes:
        try:
            data: bytes = self._stream.read(count)
        except OSError as error:
            if error.errno is None and "truncated" in str(error).lower():
                raise EOFError from None
            raise
        return data


@contextmanager
def open_byte_stream(url: str) -> Iterator[ByteStream]:
    """Open a path, an fsspec URL or the output of a ``pipe:`` command.

    Raises:
        CorruptTarError: there is no such file, or it may not be read.
        OSError: a disk or a network fails.
    """
    stream: Any
    is_pipe = url.startswith("pipe:")
    if is_pipe:
        import webdataset  # imports torch, which labels and scores do without

        stream = webdataset.gopen(url, "rb")
    elif "://" not in url:
        with _classify_errors(url):
            stream = io.FileIO(url)
    else:
        files, path = url_to_fs(url)
        with _classify_errors(url):
            stream = files.open(path, "rb")
    try:
        yield ByteStream(_Source(stream, url, is_pipe))
    finally:
        if is_pipe:
            stream.ignore_errors = True  # its exit status was checked at the end of its output; here it is stopped
        stream.close()


_ETAGS = ("md5Hash", "blob_id", "ETag", "etag")
"""What stores tell of the contents of a file, by fsspec's names; the best first."""


_SAMPLE = 1 << 16
"""Bytes of each sample of a local file."""


def describe_source(url: str) -> SourceRecord:
    """Describe a file by what its store tells without reading it; a local one by its size and samples of its contents.

    Raises:
        CorruptTarError: there is no such file, or it may not be read.
        OSError: a disk or a network fails.
    """
    if url.startswith("pipe:"):
        return SourceRecord(size=-1)
    with _classify_errors(url):
        if "://" not in url:
            with open(url, "rb") as file:
                size, digest = os.fstat(file.fileno()).st_size, hashlib.sha256()
                for start in (0, size // 2, size - _SAMPLE):
                    file.seek(max(0, start))
                    digest.update(file.read(_SAMPLE))
            return SourceRecord(size=size, fingerprint=f"sample:{digest.hexdigest()[:32]}")
        files, path = url_to_fs(url)
        details = files.info(path)
    fingerprint = next((str(details[name]).strip('"') for name in _ETAGS if details.get(name)), None)
    return SourceRecord(size=-1 if details.get("size") is None else details["size"], fingerprint=fingerprint)


class _Source(io.RawIOBase):
    """A stored file; each of its failures is an ``OSError`` with an errno and the URL."""

    def __init__(self, stream: Any, url: str, is_pipe: bool) -> None:
        self._stream, self._url, self._is_pipe = stream, url, is_pipe
        self.size = -1 if is_pipe else self._find_size()

    def _find_size(self) -> int:
        with _classify_errors(self._url):
            try:
                self._stream.seek(0, io.SEEK_END)
            except ValueError:  # fsspec raises it if a server sends a file only as a whole
                return -1
            size = int(self._stream.tell())
            self._stream.seek(0)
            return size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size >= 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _classify_errors(self._url):
            self._stream.seek(offset, whence)
            return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        filled = 0
        with _classify_errors(self._url):
            while filled < len(buffer):
                data = self._stream.read(len(buffer) - filled)
                if not data:
                    if self._is_pipe:
                        self._stream.wait_for_child()  # raises if the command failed
                    break
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        return filled


@contextmanager
def _classify_errors(url: str) -> Iterator[None]:
    """Raise a missing file as ``CorruptTarError`` and any other failure as ``OSError`` with the URL."""
    try:
        yield
    except tuple(_UNAVAILABLE) as error:
        reason = next(reason for kind, reason in _UNAVAILABLE.items() if isinstance(error, kind))
        own_message = error.strerror if error.errno and error.strerror != os.strerror(error.errno) else None
        raise CorruptTarError(f"{reason} ({own_message})" if own_message else reason) from error
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error) or type(error).__name__, url) from error
    except Exception as error:  # clients of stores have errors of their own
        raise OSError(errno.EIO, f"{error} ({type(error).__name__})", url) from error
