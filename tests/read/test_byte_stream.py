"""What does not come is told apart from what is damaged: the next attempt may have it."""

import bz2
import errno
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from corpus.tars import SKIPPED, zstd
from fsspec import AbstractFileSystem
from support import samples, write_tar

from pipeline.read import count_samples
from pipeline.read.byte_stream import TruncatedTarError, open_byte_stream
from pipeline.read.shard_reader import read_samples, scan_shard
from pipeline.utils import io as storage_io
from schemas.errors import CorruptShardError, UsageError
from schemas.shard_record import ShardRecord


class Failing(io.BytesIO):
    """A file that breaks off."""

    def __init__(self, data: bytes, after: int, error: Exception) -> None:
        super().__init__(data)
        self.after, self.error = after, error

    def read(self, size: int = -1) -> bytes:
        if self.tell() >= self.after:
            raise self.error
        return super().read(min(size, self.after - self.tell()))


class Unreliable(AbstractFileSystem):
    """A store that fails as it is told to."""

    protocol = "unreliable"
    data, after, error = b"", 0, OSError()

    def info(self, path: str, **options: object) -> dict[str, object]:
        if not self.after:
            raise self.error
        return {"name": path, "size": len(self.data), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: object) -> Failing:
        return Failing(self.data, self.after, self.error)


class ClientError(Exception):
    """As clients of stores have them: no OSError."""


@pytest.fixture
def unreliable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """URL of a shard that comes up to its middle."""
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    monkeypatch.setattr(storage_io, "_MAX_ATTEMPTS", 2)

    def make(error: Exception, pack: Callable[[bytes], bytes] = bytes) -> str:
        data = write_tar(tmp_path / "a.tar", samples(9)).read_bytes()
        monkeypatch.setattr(Unreliable, "data", pack(data))
        monkeypatch.setattr(Unreliable, "after", len(pack(data)) // 2)
        monkeypatch.setattr(Unreliable, "error", error)
        return "unreliable://bucket/a.tar"

    return make


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 0), bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNRESET, "connection reset"),
        OSError("without a number"),
        OSError(errno.ESTALE, "stale handle"),
        TimeoutError(),
        ClientError("payload is not completed"),
        RuntimeError("session is closed"),
    ],
)
def test_a_transport_that_fails_is_no_damage(unreliable, error: Exception, pack: Callable[[bytes], bytes]) -> None:
    url = unreliable(error, pack)
    for use in (
        lambda: scan_shard(url),
        lambda: list(read_samples(ShardRecord(name="a", url=url, samples=9, size=-1), 9)),
    ):
        with pytest.raises(OSError, match=r"unreliable://bucket/a\.tar") as failed:
            use()
        assert failed.value.errno


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError("a.tar"), "there is no such file"),
        (PermissionError("a.tar"), "permission denied"),
        (IsADirectoryError("a.tar"), "it is a folder"),
    ],
)
def test_what_is_not_there_is_a_problem_of_the_tar(unreliable, error: Exception, says: str) -> None:
    url = unreliable(error)
    assert scan_shard(url).fault == says
    with pytest.raises(CorruptShardError, match=says):
        list(read_samples(ShardRecord(name="a", url=url, samples=9, size=-1), 9))


def test_a_plan_without_the_network_is_refused(unreliable) -> None:
    url = unreliable(OSError(errno.ENETUNREACH, "network is unreachable"))
    with pytest.raises(UsageError, match=r"unreliable://bucket/a.tar: cannot be reached \(network is unreachable"):
        count_samples([url], keep_partial=True)


def test_a_folder_is_no_tar(tmp_path: Path) -> None:
    assert scan_shard(str(tmp_path)).fault == "it is a folder"
    assert scan_shard(str(tmp_path / "a.tar")).fault == "there is no such file"


def test_a_command_that_fails_is_no_damage_and_one_that_is_no_longer_needed_is_no_failure(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(400))
    half = path.stat().st_size // 2
    with pytest.raises(OSError, match="exit 7") as failed:
        scan_shard(f"pipe:head -c {half} {path}; exit 7")
    assert failed.value.errno
    path.write_bytes(path.read_bytes()[:512] + b"\xff" * 512 + path.read_bytes())
    assert "broken" in scan_shard(f"pipe:cat {path}").fault


def test_a_zstd_file_that_is_cut_anywhere_but_between_two_frames_is_truncated(tmp_path: Path) -> None:
    """Of two frames around one to skip; what is cut between frames is a whole file, and its tar is found truncated."""
    contents = [bytes(range(200)), bytes(range(100, 256))]
    frames = [zstd(contents[0]), SKIPPED, zstd(contents[1])]
    whole, path = b"".join(frames), tmp_path / "cut.tar.zst"
    ends = {len(frames[0]): contents[0], len(frames[0] + frames[1]): contents[0], len(whole): b"".join(contents)}
    for length in range(4, len(whole) + 1):
        path.write_bytes(whole[:length])
        with open_byte_stream(str(path)) as stream:
            if length in ends:
                assert stream.read(1 << 20) == ends[length]
                continue
            with pytest.raises(TruncatedTarError, match="it is truncated"):
                list(iter(lambda: stream.read(1 << 20), b""))
