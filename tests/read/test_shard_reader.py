"""Members to samples: what is one, what a scan finds wrong, and that a read never ends silently."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import jpeg, samples, write_tar
from webdataset.tariterators import base_plus_ext

from pipeline.read import DecoderPool, PreprocessConfig, iter_batches
from pipeline.read.sample_keys import split_name
from pipeline.read.shard_reader import MAX_IMAGE_BYTES, group_by_key, read_samples, scan_shard
from pipeline.read.tar_members import TarMember
from schemas.errors import CorruptShardError
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord


def shard(path: Path, count: int) -> ShardRecord:
    return ShardRecord(name="x", url=str(path), samples=count, size=-1)


def named(names: list[str]) -> list[TarMember]:
    """Files without contents."""
    return [TarMember(name, 0, None) for name in names]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "a.cls", "b.cls", "b.jpg"], [("a", {"jpg", "cls"}), ("b", {"cls", "jpg"})]),
        (["a.JPEG", "a.Cls"], [("a", {"jpeg", "cls"})]),
        (["n01/a.b.jpg", "n01/a.cls"], [("n01/a", {"b.jpg", "cls"})]),
        (["v1.0/a.jpg"], [("v1.0/a", {"jpg"})]),
        (["a.jpg", "a.jpg"], [("a", {"jpg"}), ("a", {"jpg"})]),
        (["a.jpg", "b.jpg", "a.jpg"], [("a", {"jpg"}), ("b", {"jpg"}), ("a", {"jpg"})]),
        (["README", "notes.txt", "__meta__/x.jpg", "a.png"], [("a", {"png"})]),
        (["a.npy", "a.cls"], [("a", {"npy", "cls"})]),
    ],
)
def test_members_are_grouped_by_webdatasets_rule(names: list[str], expected: list) -> None:
    assert [(each.key, set(each.members)) for each in group_by_key(named(names), load=False)] == expected


@given(st.text("ab./\n", max_size=12))
def test_a_name_is_split_as_webdataset_splits_it(name: str) -> None:
    key, extension = base_plus_ext(name)
    assert split_name(name) == (key or "", extension or "")


def test_a_scan_counts_what_a_read_yields(tmp_path: Path) -> None:
    members = [*samples(5), ("x.cls", b"1"), ("notes.txt", b"no sample"), ("y.v2.jpg", b""), *samples(2, 7)]
    path = write_tar(tmp_path / "a.tar", members)
    found = scan_shard(str(path))
    assert (found.samples, found.size, found.fault) == (9, path.stat().st_size, None)
    assert [each.key for each in read_samples(shard(path, 9), 99)][5:7] == ["x", "y"]


def test_a_compressed_tar_is_read_like_any_other(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(3))
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert scan_shard(str(packed)).samples == 3
    assert scan_shard(str(packed)).fault is None
    assert len(list(read_samples(shard(packed, 3), 99))) == 3


def test_folders_and_links_that_are_no_images_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("s.txt", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert scan_shard(str(tmp_path / "a.tar")).samples == 1
    assert [each.key for each in read_samples(shard(tmp_path / "a.tar", 1), 99)] == ["a"]


def broken(data: bytes, how: str) -> bytes:
    member = data.index(b"s0003.jpg")
    return {
        "empty file": b"",
        "no tar": b"these are no blocks of a shard" * 100,
        "cut in a member": data[: member + 600],
        "cut in a header": data[: member + 100],
        "cut between members": data[:member],
        "broken header": data[:member] + b"\xff" * 512 + data[member + 512 :],
        "two shards in one": data + data,
        "garbage behind": data + b"x" * 40000,
    }[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty file", "it is empty"),
        ("no tar", "it is not a tar"),
        ("cut in a member", "it is truncated"),
        ("cut in a header", "truncated|header"),
        ("cut between members", "truncated: it ends at byte"),
        ("broken header", "header at byte .* is broken"),
        ("two shards in one", "data follows its end mark"),
        ("garbage behind", "data follows its end mark"),
    ],
)
def test_a_scan_says_what_is_wrong_and_never_raises(tmp_path: Path, how: str, says: str) -> None:
    path = write_tar(tmp_path / "a.tar", samples(6))
    path.write_bytes(broken(path.read_bytes(), how))
    found = scan_shard(str(path))
    assert found.fault
    assert re.search(says, found.fault), found.fault
    assert found.samples <= 6


def test_a_tar_without_samples_is_a_problem(tmp_path: Path) -> None:
    assert scan_shard(str(write_tar(tmp_path / "a.tar", [("notes.txt", b"x")]))).fault == (
        "it holds no samples; files of no sample: 1 txt"
    )


@pytest.mark.parametrize(
    "how", ["empty file", "no tar", "cut in a member", "cut in a header", "cut between members", "broken header"]
)
def test_a_read_of_a_broken_tar_raises(tmp_path: Path, how: str) -> None:
    path = write_tar(tmp_path / "a.tar", samples(6))
    path.write_bytes(broken(path.read_bytes(), how))
    with pytest.raises(CorruptShardError, match=r"a.tar: it|a.tar: its header"):
        list(read_samples(shard(path, 6), 99))


def test_a_tar_that_has_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(4))
    with pytest.raises(CorruptShardError, match="3 samples were planned, it holds 4; restore it, or plan another"):
        list(read_samples(shard(path, 3), 9))
    with pytest.raises(CorruptShardError, match="5 samples were planned, it holds 4"):
        list(read_samples(shard(path, 5), 9))
    with pytest.raises(CorruptShardError, match="there is no such file"):
        list(read_samples(shard(tmp_path / "gone.tar", 5), 9))


def test_a_tar_that_was_mended_since_the_plan_may_hold_what_there_is_room_for(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(4))
    planned = ShardRecord(name="x", url=str(path), samples=2, size=-1, fault="it is truncated")
    assert len(list(read_samples(planned, 4))) == 4
    with pytest.raises(CorruptShardError, match="holds 4 samples, but the atlas has room for 3"):
        list(read_samples(planned, 3))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("how", ["cut in a member", "cut between members", "broken header", "two shards in one"])
def test_a_compressed_tar_is_checked_to_its_end(tmp_path: Path, pack, how: str) -> None:
    path = write_tar(tmp_path / "a.tar", samples(6))
    path.write_bytes(pack(broken(path.read_bytes(), how)))
    assert scan_shard(str(path)).fault
    with pytest.raises(CorruptShardError):
        list(read_samples(shard(path, 6), 9))


def test_a_compressed_tar_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(6))
    packed = bytearray(gzip.compress(path.read_bytes(), 0))
    packed[packed.index(b"JFIF") + 300] ^= 1  # within a picture; nothing else would notice
    path.write_bytes(packed)
    assert "CRC" in scan_shard(str(path)).fault


def test_padding_with_zeros_is_no_damage_and_two_small_tars_in_one_are(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(1))
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100_000)
    assert scan_shard(str(path)).fault is None
    path.write_bytes(whole.rstrip(b"\0") + b"\0" * 1024 + whole)
    assert scan_shard(str(path)).fault


def test_damage_behind_the_last_sample_is_seen_without_a_scan_by_the_plan(tmp_path: Path) -> None:
    """As when _info.json gave the count: the label of the last sample is lost."""
    path = write_tar(tmp_path / "a.tar", [("a.jpg", jpeg()), ("b.jpg", jpeg()), ("b.cls", b"1")])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"b.cls")])
    with pytest.raises(CorruptShardError, match="it is truncated"):
        list(read_samples(shard(path, 2), 9))


def test_hidden_files_are_not_members_and_other_images_are_not_lost() -> None:
    names = ["d/._a.jpg", "d/a.jpg", "d/._a.cls", "d/a.cls", ".DS_Store.jpg", "b.gif", "c.tiff"]
    assert [each.key for each in group_by_key(named(names), load=False)] == ["d/a", "b", "c"]


def test_workers_of_other_frameworks_in_the_environment_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "WORKER": "2", "NUM_WORKERS": "3"}.items():
        monkeypatch.setenv(name, value)
    path = write_tar(tmp_path / "a.tar", samples(4))
    assert len(list(read_samples(shard(path, 4), 99))) == 4


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", jpeg()), ("a.cls", b"3")])
    url = f"pipe:cat {path}"
    assert scan_shard(url).samples == 1
    ((only),) = read_samples(ShardRecord(name="x", url=url, samples=1, size=-1), 9)
    assert only.image().data == jpeg()


def test_an_image_beyond_measure_is_not_read_and_neither_is_a_label(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for name, size in (
            ("a.jpg", MAX_IMAGE_BYTES + 1),
            ("a.cls", (1 << 17) + 1),
            ("b.jpg", 4),
            ("b.cls", 1 << 17),
            ("b.json", 4),
        ):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf())
            file.seek(-(-size // 512) * 512, io.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    scan = scan_shard(str(path))
    assert (scan.samples, scan.size, scan.fault) == (2, path.stat().st_size, None)
    large, small = read_samples(shard(path, 2), 2)
    assert {name: member.data for name, member in large.members.items()} == {"jpg": None, "cls": None}
    assert {name: member.data for name, member in small.members.items()} == {
        "jpg": bytes(4), "cls": bytes(1 << 17), "json": None
    }  # fmt: skip
    with DecoderPool() as decoders:
        (batch,) = iter_batches(
            shard(path, 2), 2, PreprocessConfig(16, 16, "bicubic", "squash", 1.0, "center"), 2, 10, decoders
        )
    assert batch.samples[0].status == SampleStatus.UNDECODABLE
    assert batch.samples[0].error == "256,000,001 bytes are more than 256,000,000"
    assert batch.samples[1].error == f"the .cls member is {bytes(40)!r}, not a number of up to 9 digits"
    write_tar(path, [("a.jpg", jpeg()), ("a.cls", b"1" * ((1 << 17) + 1))])
    with DecoderPool() as decoders:
        (batch,) = iter_batches(
            shard(path, 1), 2, PreprocessConfig(16, 16, "bicubic", "squash", 1.0, "center"), 2, 10, decoders
        )
    assert batch.samples[0].status == SampleStatus.BAD_LABEL
    assert batch.samples[0].error == "the member a.cls of 131,073 bytes is too large for a label"


def test_memory_is_that_of_the_keys_whatever_the_members(tmp_path: Path) -> None:
    peaks = []
    for number in (10, 100, 3000):  # the first also takes what is taken but once
        path = write_tar(tmp_path / "a.tar", [(f"{place}.jpg", b"x") for place in range(number)])
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_samples(shard(path, number), number)) == number
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] < peaks[1] + 300 * 2900


def partial(path: Path, count: int) -> ShardRecord:
    return ShardRecord(name="x", url=str(path), samples=count, size=-1, fault="it is truncated", partial=True)


@pytest.mark.parametrize("pipe", ["", "pipe:cat "])
def test_of_a_kept_tar_just_the_planned_samples_are_read(tmp_path: Path, pipe: str) -> None:
    path = write_tar(tmp_path / "a.tar", samples(200))
    whole = path.read_bytes()
    url = f"{pipe}{path}"
    path.write_bytes(whole[: whole.index(b"s0150.jpg") + 600])
    found = scan_shard(url)
    assert (found.samples, found.fault) == (150, "it is truncated")
    keys = [f"s{number:04d}" for number in range(150)]
    assert [each.key for each in read_samples(partial(url, 150), 150)] == keys
    path.write_bytes(whole)  # mended since
    assert [each.key for each in read_samples(partial(url, 150), 150)] == keys
    path.write_bytes(whole[: whole.index(b"s0140.jpg") + 600])
    with pytest.raises(
        CorruptShardError, match=r"150 samples were planned, it holds 140|past sample 140: it is truncated"
    ):
        list(read_samples(partial(url, 150), 150))
