"""Every sample of a shard comes out, in order, good or with what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
from support import jpeg, samples, write_tar

from pipeline.read import DecoderPool, ImageBatch, PreprocessConfig, iter_batches
from pipeline.read.shard_reader import scan_shard
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord

FRAME = PreprocessConfig(16, 16, "bicubic", "squash", 1.0, "center")


def read(path: Path, size: int = 4, classes: int | None = 10, processes: int = 0) -> list[ImageBatch]:
    shard = ShardRecord(name="x", url=str(path), samples=scan_shard(str(path)).samples, size=-1)
    with DecoderPool(processes) as pool:
        return list(iter_batches(shard, 99, FRAME, size, classes, pool))


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_samples_come_in_order_whatever_the_batch(tmp_path: Path, size: int) -> None:
    found = read(write_tar(tmp_path / "a.tar", samples(10)), size)
    assert [len(batch.samples) for batch in found][:-1] == [size] * (len(found) - 1)
    flat = [sample for batch in found for sample in batch.samples]
    assert [(s.ordinal, s.key, s.label, s.status) for s in flat] == [
        (i, f"s{i:04d}", i, SampleStatus.OK) for i in range(10)
    ]  # fmt: skip
    assert all(np.array_equal(batch.pixels[i], s.image.pixels) for batch in found for i, s in enumerate(batch.samples))


def test_processes_decode_as_a_thread_does(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*samples(6), ("bad.jpg", b"x"), ("bad.cls", b"1")])
    one, many = read(path), read(path, processes=2)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, many, strict=True))
    assert [s.status for b in one for s in b.samples] == [s.status for b in many for s in b.samples]


BAD = {
    "missing image": ([("b.cls", b"1")], SampleStatus.MISSING_IMAGE, "there are: b.cls"),
    "image after two dots": (
        [("b.v2.jpg", jpeg()), ("b.cls", b"1")],
        SampleStatus.MISSING_IMAGE,
        "there are: b.cls, b.v2.jpg; plan with --key-separator last-dot, or with --image-key v2.jpg",
    ),
    "broken image": ([("b.jpg", b"junk"), ("b.cls", b"1")], SampleStatus.UNDECODABLE, "4 bytes that are no JPEG"),
    "empty image": ([("b.jpg", b""), ("b.cls", b"1")], SampleStatus.UNDECODABLE, "0 bytes"),
    "no label": (
        [("b.jpg", jpeg())],
        SampleStatus.MISSING_LABEL,
        "no .cls member; there are: b.jpg; add one, or plan with --targets predicted",
    ),
    "word for a label": ([("b.jpg", jpeg()), ("b.cls", b"dog")], SampleStatus.BAD_LABEL, "b'dog', not a number"),
    "empty label": ([("b.jpg", jpeg()), ("b.cls", b"")], SampleStatus.MISSING_LABEL, "has no label"),
    "label of bytes": ([("b.jpg", jpeg()), ("b.cls", b"\xff\xfe")], SampleStatus.BAD_LABEL, "not a number"),
    "label in Python's own spelling": (
        [("b.jpg", jpeg()), ("b.cls", b"1_0")],
        SampleStatus.BAD_LABEL,
        "not a number",
    ),
    "label beyond any class": ([("b.jpg", jpeg()), ("b.cls", b"9" * 30)], SampleStatus.BAD_LABEL, "of up to 9 digits"),
    "key of other bytes": (
        [("caf\udce9.jpg", jpeg()), ("caf\udce9.cls", b"1")],
        SampleStatus.UNSAFE_KEY,
        "the key is not UTF-8",
    ),
    "label too large": (
        [("b.jpg", jpeg()), ("b.cls", b"10")],
        SampleStatus.LABEL_OUT_OF_RANGE,
        "label 10 is outside of 0 … 9",
    ),
    "label too small": ([("b.jpg", jpeg()), ("b.cls", b"-1")], SampleStatus.LABEL_OUT_OF_RANGE, "outside of 0 … 9"),
    "same key again": (
        [("s0001.jpg", jpeg()), ("s0001.cls", b"1")],
        SampleStatus.DUPLICATE_KEY,
        "sample 1 of this shard",
    ),
    "key that climbs": (
        [("../../b.jpg", jpeg()), ("../../b.cls", b"1")],
        SampleStatus.UNSAFE_KEY,
        "would leave the folder",
    ),
    "absolute key": ([("/etc/b.jpg", jpeg()), ("/etc/b.cls", b"1")], SampleStatus.UNSAFE_KEY, "would leave the folder"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_sample_is_a_row_with_its_reason_and_its_neighbours_are_unharmed(tmp_path: Path, kind: str) -> None:
    members, status, reason = BAD[kind]
    clean = samples(6)
    with_bad = read(write_tar(tmp_path / "a.tar", [*clean[:9], *members, *clean[9:]]), 7)
    flat = [sample for batch in with_bad for sample in batch.samples]
    assert len(flat) == 7
    assert (flat[3].status, flat[3].image, flat[3].ordinal) == (status, None, 3)
    assert reason in (flat[3].error or "")
    assert not with_bad[0].pixels[3].any()
    (without,) = read(write_tar(tmp_path / "b.tar", clean), 7)
    others = [0, 1, 2, 4, 5, 6]
    assert [flat[i].status for i in others] == [SampleStatus.OK] * 6
    assert np.array_equal(with_bad[0].pixels[others], without.pixels)


def test_labels_that_are_not_needed_may_be_missing_or_wrong(tmp_path: Path) -> None:
    labels = {"b": b" 4711\n", "c": b"-1", "d": b"dog", "e": b"9" * 30}
    members = [("a.jpg", jpeg())]
    for key, text in labels.items():
        members += [(f"{key}.jpg", jpeg()), (f"{key}.cls", text)]
    (batch,) = read(write_tar(tmp_path / "a.tar", members), 9, classes=None)
    assert [sample.label for sample in batch.samples] == [None, 4711, -1, None, None]
    assert {sample.status for sample in batch.samples} == {SampleStatus.OK}
    assert [bool(sample.error) for sample in batch.samples] == [False, False, False, True, True]
