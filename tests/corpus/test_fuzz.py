"""Good files, changed at random: only what is documented comes of them."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus.promises import decoded, scanned
from corpus.strange import blocks
from corpus.tars import GOOD, MEMBERS, member, tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import encode, examples, soaking

from pipeline.read.shard_reader import scan_shard

IMAGES = [data for name, data in MEMBERS if name.endswith("jpg")]

fuzz = settings(
    examples(100), derandomize=not soaking(), database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

places = st.floats(0, 1, exclude_max=True)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), places, st.integers(1, 255)),
        st.tuples(st.just("cut"), places, st.just(0)),
        st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("remove"), places, st.integers(1, 600)),
        st.tuples(st.just("swap"), places, places),
    ),
    min_size=1,
    max_size=4,
)


def changed(data: bytes, how: list[tuple[str, float, object]]) -> bytes:
    """Bytes after some accidents."""
    for kind, where, what in how:
        at = int(where * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "remove":
            data = data[:at] + data[at + what :]
        elif kind == "swap":
            first, second = sorted((at, int(what * len(data))))
            data = data[:first] + data[second : second + 64] + data[first + 64 : second] + data[first : first + 64]
    return data


PICTURES = {
    "jpeg": encode(blocks(), "JPEG"),
    "progressive": encode(blocks(), "JPEG", progressive=True),
    "png": encode(blocks("P"), "PNG"),
    "webp": encode(blocks(), "WEBP"),
    "lossless": encode(blocks("RGBA"), "WEBP", lossless=True),
    "ppm": encode(blocks(), "PPM"),
    "plain ppm": b"P3 4 4 255\n" + b" 17" * 48,
    "bmp": encode(blocks("P"), "BMP"),
}


@pytest.mark.parametrize("kind", PICTURES)
@fuzz
@given(how=changes)
def test_a_picture_is_one_or_is_undecodable(kind: str, how: list[tuple[str, float, object]]) -> None:
    decoded(changed(PICTURES[kind], how))


def test_none_of_them_is_undecodable_by_itself() -> None:
    assert all(decoded(data) for data in PICTURES.values())


@fuzz
@given(how=changes)
def test_a_tar_is_read_as_it_was_scanned(tmp_path: Path, how: list[tuple[str, float, object]]) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(changed(GOOD, how))
    scanned(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@fuzz
@given(how=changes)
def test_a_packed_tar_without_a_problem_is_the_one_that_was_packed(
    tmp_path: Path, pack: Callable[[bytes], bytes], how: list[tuple[str, float, object]]
) -> None:
    """A plain tar has no checksum but that of its headers, and this cannot be said of it."""
    path = tmp_path / "a.tar"
    path.write_bytes(changed(pack(GOOD), how))
    found, images = scanned(path)
    assert found.fault or images == IMAGES


SMALL = [
    (f"{number}.{kind}", bytes([number]) * size) for number in range(4) for kind, size in (("jpg", 700), ("cls", 1))
]
PARTS = [member(name, data) for name, data in SMALL]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_tar_that_is_cut_anywhere_has_a_good_front(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    whole, counts = pack(tar(*PARTS)), []
    path = tmp_path / "a.tar"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        found, images = scanned(path)
        assert found.fault
        assert images == [data for name, data in SMALL if name.endswith("jpg")][: len(images)]
        counts.append(len(images))
    assert counts == sorted(counts)


def test_a_plain_tar_that_is_cut_anywhere_has_the_samples_that_another_follows(tmp_path: Path) -> None:
    starts = [sum(map(len, PARTS[:place])) for place in range(len(PARTS))]
    path = tmp_path / "a.tar"
    path.write_bytes(tar(*PARTS))
    for end in reversed(range(sum(map(len, PARTS)) + 1)):
        os.truncate(path, end)
        found = scan_shard(str(path))
        assert found.fault
        assert found.samples == sum(start + 512 <= end for start in starts[2::2]), end
