"""Copies of remote shards: made once, whole, in bounds, and never taken for another."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import same_bytes

from pipeline.read import ShardCache
from pipeline.run import ExecutionOptions, run
from pipeline.run.plan import plan
from schemas.errors import UsageError
from schemas.run import RunSpec

URL = "memory://tars/a.tar"


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty store that is not this disk."""
    files = fsspec.filesystem("memory")
    files.makedirs("/tars", exist_ok=True)
    yield files
    files.rm("/tars", recursive=True)


def names(cache: ShardCache) -> list[str]:
    return sorted(os.listdir(cache.folder))


def test_a_tar_is_copied_once_and_then_known(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/tars/a.tar", b"one")
    cache = ShardCache(str(tmp_path / "new" / "copies"), 100)
    assert cache.cached_indices([URL]) == []
    copy = cache.local_path(URL)
    assert (Path(copy).read_bytes(), Path(copy).parent) == (b"one", tmp_path / "new" / "copies")
    monkeypatch.setattr(type(bucket), "get_file", None)  # and is not asked for again
    assert ShardCache(cache.folder, 100).local_path(URL) == copy
    assert cache.cached_indices(["memory://tars/b.tar", URL, "/local.tar"]) == [1]


def test_a_tar_that_was_replaced_or_a_copy_that_was_cut_is_copied_anew(bucket: Any, tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path), 100)
    bucket.pipe("/tars/a.tar", b"one")
    first = cache.local_path(URL)
    time.sleep(0.01)
    bucket.pipe("/tars/a.tar", b"two")  # as long as the other
    second = cache.local_path(URL)
    assert (Path(second).read_bytes(), names(cache)) == (b"two", [Path(second).name])
    assert first != second
    Path(second).write_bytes(b"t")
    assert Path(cache.local_path(URL)).read_bytes() == b"two"


@pytest.mark.parametrize("url", ["/data/a.tar", "pipe:cat a.tar", "{file}", "memory://tars/none.tar"])
def test_what_is_here_or_cannot_be_copied_is_read_from_where_it_is(bucket: Any, tmp_path: Path, url: str) -> None:
    (tmp_path / "a.tar").write_bytes(b"here")
    cache = ShardCache(str(tmp_path / "copies"), 100)
    url = url.format(file=f"file://{tmp_path}/a.tar")
    assert (cache.local_path(url), names(cache)) == (url, [])


def test_where_there_is_no_room_the_tar_comes_over_the_network(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(str(tmp_path), 5)
    for name in "abc":
        bucket.pipe(f"/tars/{name}.tar", b"one")
    assert [cache.local_path(f"memory://tars/{name}.tar").startswith("memory:") for name in "abc"] == [
        False,
        True,
        True,
    ]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(bucket), "get_file", full)
    assert ShardCache(str(tmp_path / "full"), 100).local_path(URL) == URL
    assert names(ShardCache(str(tmp_path / "full"), 100)) == []


def test_a_copy_that_is_not_whole_is_not_kept(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/tars/a.tar", b"three")
    monkeypatch.setattr(type(bucket), "get_file", lambda self, path, local: Path(local).write_bytes(b"th"))
    cache = ShardCache(str(tmp_path), 100)
    with pytest.raises(OSError, match="received 2 of 5 bytes"):
        cache.local_path(URL)
    assert names(cache) == []


def test_what_a_killed_actor_left_goes_in_time(tmp_path: Path) -> None:
    for name, age in ((".vitatlas-1.part", 10), (".vitatlas-2.part", 10**6), ("mine.part", 10**6)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert names(ShardCache(str(tmp_path), 9)) == [".vitatlas-1.part", "mine.part"]


def test_a_folder_that_cannot_be_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file: cannot be created .*; name a folder that every node can create"):
        ShardCache(str(tmp_path / "file"), 1)


def test_a_run_from_copies_gives_the_same_bytes_and_asks_for_no_tar_again(
    bucket: Any, spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(f"{tmp_path}/shards/*.tar", "/tars/")
    spec = spec.model_copy(update={"shards": ("memory://tars/part-{0..2}.tar",)})
    crew = ExecutionOptions("inline", cache=str(tmp_path / "copies"))
    for name in ("plain", "first", "second"):
        plan(spec, str(tmp_path / name))
    run(str(tmp_path / "plain"), ExecutionOptions("inline"))
    monkeypatch.setattr(type(bucket), "_open", None)  # nothing is streamed
    monkeypatch.setattr(type(bucket), "get_file", _copied := _Copying(bucket))
    run(str(tmp_path / "first"), crew)
    assert len(_copied.paths) == 3
    run(str(tmp_path / "second"), crew)
    assert len(_copied.paths) == 3
    for name in ("first", "second"):
        same_bytes(tmp_path / "plain", tmp_path / name)


class _Copying:
    """Copies from a store in memory, and remembers what."""

    def __init__(self, bucket: Any) -> None:
        self.bucket, self.paths = bucket, []

    def __call__(self, path: str, local: str) -> None:
        self.paths.append(path)
        Path(local).write_bytes(self.bucket.store[path].getvalue())


def test_the_command_that_goes_on_names_the_folder() -> None:
    said = ExecutionOptions(cache="/nvme/copies", cache_gb=7).resume_command("a.atlas")
    assert said == "vitatlas run a.atlas --cache /nvme/copies --cache-gb 7"
    assert (
        ExecutionOptions(cache="/nvme/copies").resume_command("a.atlas") == "vitatlas run a.atlas --cache /nvme/copies"
    )


def test_a_cache_is_no_url(vitatlas: Any, tmp_path: Path) -> None:
    code, _, error = vitatlas("run", tmp_path, "--cache", "s3://bucket/copies")
    assert (code, "--cache s3://bucket/copies: is a URL; name a folder" in error) == (2, True)
