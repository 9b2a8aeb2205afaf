"""Tars that once lost an image, or explained the wrong one: each image is a row, or the shard is refused with a fix."""

import io
import tarfile
from itertools import permutations
from pathlib import Path

import pytest
from support import jpeg, write_tar

from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, count_samples, iter_batches
from pipeline.read.shard_reader import read_samples, scan_shard
from schemas.errors import CorruptShardError
from schemas.run import Grouping
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord

CASES = Path(__file__).parent / "cases"
FRAME = PreprocessConfig(16, 16, "bicubic", "squash", 1.0, "center")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def read(path: Path, grouping: Grouping = Grouping(), classes: int | None = None) -> list[DecodedSample]:
    """Rows of a shard; a read finds as many as the plan has counted."""
    (record,) = count_samples([str(path)], grouping=grouping)
    with DecoderPool() as decoders:
        batches = iter_batches(record, 99, FRAME, 4, classes, decoders, grouping=grouping)
        return [sample for batch in batches for sample in batch.samples]


def statuses(samples: list[DecodedSample]) -> dict[str, SampleStatus]:
    return {sample.key: sample.status for sample in samples}


def refusal(path: Path, grouping: Grouping = Grouping()) -> str:
    """Why a shard is refused; the plan and a read say the same, and no sample of it is kept."""
    (planned,) = count_samples([str(path)], keep_partial=True, grouping=grouping)
    assert planned.fault
    assert (planned.samples, planned.partial) == (0, False)
    with pytest.raises(CorruptShardError) as refused:
        list(read_samples(planned, 99, grouping))
    assert str(refused.value) == f"{path}: {planned.fault}"
    return planned.fault


def test_the_plain_tar_has_three_images() -> None:
    assert statuses(read(CASES / "plain.tar", classes=10)) == dict.fromkeys("abc", SampleStatus.OK)


def test_two_images_under_one_key_are_refused_and_the_option_that_chooses_is_named() -> None:
    assert refusal(CASES / "webpmask.tar") == (
        "sample s0 has 2 images (s0.webp, s0.png); choose the image by --image-key webp"
    )
    chosen = read(CASES / "webpmask.tar", Grouping(image_key=("webp",)), classes=10)
    assert [(sample.member, sample.label) for sample in chosen] == [("s0.webp", 1), ("s1.webp", 5)]
    assert [sample.status for sample in chosen] == [SampleStatus.OK] * 2


@pytest.mark.parametrize("names", list(permutations(["a.jpg", "a.seg.png", "a.cls"])))
def test_the_order_of_two_images_does_not_decide(tmp_path: Path, names: tuple[str, ...]) -> None:
    contents = {"a.jpg": jpeg(), "a.seg.png": PNG, "a.cls": b"1"}
    path = write_tar(tmp_path / "a.tar", [(name, contents[name]) for name in names])
    fault = refusal(path)
    assert "--image-key" in fault
    assert "--key-separator last-dot" in fault
    (sample,) = read(path, Grouping(image_key=("jpg",)))
    assert (sample.member, sample.status) == ("a.jpg", SampleStatus.OK)


def test_an_image_key_may_have_dots_any_name_and_alternatives(tmp_path: Path) -> None:
    members = [("a.input.jpg", jpeg()), ("a.target.png", PNG), ("b.photo", jpeg(1)), ("c.target.png", PNG)]
    path = write_tar(tmp_path / "a.tar", members)
    samples = read(path, Grouping(image_key=("photo", "input.jpg")))
    assert [(sample.member, sample.status) for sample in samples] == [
        ("a.input.jpg", SampleStatus.OK), ("b.photo", SampleStatus.OK), (None, SampleStatus.MISSING_IMAGE)
    ]  # fmt: skip
    assert samples[2].error == (
        "no member has the extension photo or input.jpg of --image-key; there are: c.target.png"
    )


def test_dots_in_keys_are_refused_and_the_option_that_keeps_all_images_is_named() -> None:
    fault = refusal(CASES / "dots.tar")
    assert fault.startswith("sample 22 has 3 images (22.05.jpg, 22.06.jpg, 22.07.jpg); end keys at the last dot by ")
    assert "--key-separator last-dot" in fault
    samples = read(CASES / "dots.tar", Grouping("last-dot"), classes=10)
    assert statuses(samples) == dict.fromkeys(["22.05", "22.06", "22.07", "other"], SampleStatus.OK)


def test_a_single_image_with_dots_in_its_key_is_a_row_that_names_the_option(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("22.05.jpg", jpeg()), ("22.05.cls", b"1"), ("b.jpg", jpeg(1))])
    first, second = read(path)
    assert (first.status, second.status) == (SampleStatus.MISSING_IMAGE, SampleStatus.OK)
    assert "--key-separator last-dot" in (first.error or "")
    assert statuses(read(path, Grouping("last-dot"))) == dict.fromkeys(["22.05", "b"], SampleStatus.OK)


def test_images_whose_dotted_keys_begin_alike_but_are_apart_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.1.jpg", jpeg()), ("b.jpg", jpeg()), ("a.2.jpg", jpeg())])
    assert "--key-separator last-dot" in refusal(path)
    assert len(read(path, Grouping("last-dot"))) == 3


def test_symbolic_links_are_rows_with_their_reason() -> None:
    samples = {sample.key: sample for sample in read(CASES / "sym.tar")}
    assert list(samples) == ["a", "b", "c", "d"]
    assert [samples[key].status for key in "ad"] == [SampleStatus.OK] * 2
    assert [samples[key].status for key in "bc"] == [SampleStatus.MISSING_IMAGE] * 2
    assert samples["b"].error == (
        "b.jpg is a symbolic link to /data/imagenet/b.jpg, which is not followed; pack it with tar --dereference"
    )


def link_tar(path: Path, kind: bytes, form: int, target: str, name: str = "b.jpg") -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for member, data in (("a.jpg", jpeg()), ("a.cls", b"1")):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
        info = tarfile.TarInfo("c.jpg")
        info.size = len(jpeg(2))
        archive.addfile(info, io.BytesIO(jpeg(2)))
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("target", ["a.jpg", "folder/" * 30 + "a.jpg"])
@pytest.mark.parametrize(
    ("kind", "words", "flag"),
    [(tarfile.LNKTYPE, "hard link", "--hard-dereference"), (tarfile.SYMTYPE, "symbolic link", "--dereference")],
)
def test_a_link_among_images_is_a_row_and_its_neighbors_are_read(
    tmp_path: Path, kind: bytes, words: str, flag: str, form: int, target: str
) -> None:
    first, link, last = read(link_tar(tmp_path / "a.tar", kind, form, target))
    assert (first.status, link.status, last.status) == (SampleStatus.OK, SampleStatus.MISSING_IMAGE, SampleStatus.OK)
    assert f"b.jpg is a {words} to {target[:200]}, " in (link.error or "")
    assert flag in (link.error or "")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
def test_what_is_neither_a_file_nor_a_folder_is_a_row_if_its_name_is_of_an_image(tmp_path: Path, kind: bytes) -> None:
    samples = read(link_tar(tmp_path / "a.tar", kind, tarfile.GNU_FORMAT, ""))
    assert [sample.status for sample in samples] == ["ok", "missing_image", "ok"]


def test_a_label_that_is_a_link_says_so(tmp_path: Path) -> None:
    path = link_tar(tmp_path / "a.tar", tarfile.SYMTYPE, tarfile.GNU_FORMAT, "a.cls", "b.cls")
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("c.cls")
        info.type, info.linkname = tarfile.SYMTYPE, "a.cls"
        archive.addfile(info)
    last = read(path, classes=10)[-1]
    assert (last.key, last.status) == ("c", SampleStatus.BAD_LABEL)
    assert last.error.startswith("c.cls is a symbolic link to a.cls")


def test_every_file_that_can_be_an_image_is_a_row_and_the_others_are_counted() -> None:
    path = CASES / "exts.tar"
    samples = {sample.member: sample for sample in read(path)}
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert scan_shard(str(path)).left_out == "files of no sample: 1 npy"
    assert [sample.key for sample in samples.values()] == [
        name.partition(".")[0] for name in names if name != "e14.npy"
    ]
    decoded = {name for name, sample in samples.items() if sample.status is SampleStatus.OK}
    named = ("e00.jpg", "e05.pgm", "e06.pnm", "e07.pbm", "e09.jpe", "e10.jpg_large", "e12.image", "e13.img", "e16.bmp")
    assert decoded == {*named, "noext"}
    assert all(sample.error for sample in samples.values() if sample.status is not SampleStatus.OK)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"GIF89a" + bytes(60), "a.data"),
        (b"II*\0" + bytes(60), "a.data"),
        (b"\0\0\0\x1cftypavif" + bytes(60), "a"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "a.x"),
        (b"x", "a.HEIC"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_a_row_whatever_its_name(tmp_path: Path, start: bytes, name: str) -> None:
    (sample,) = read(write_tar(tmp_path / "a.tar", [(name, start)]))
    assert sample.status is SampleStatus.UNDECODABLE
    assert "convert it" in (sample.error or "")


def test_texts_and_arrays_are_no_images(tmp_path: Path) -> None:
    members = [
        ("a.txt", b"BMW, MM, II and P5 are no images"),
        ("b.npy", b"\x93NUMPY"),
        ("README", b"P6"),
        ("c.jpg", jpeg()),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    assert statuses(read(path)) == {"c": SampleStatus.OK}
    assert scan_shard(str(path)).left_out == "files of no sample: 1 no extension, 1 npy, 1 txt"


@pytest.mark.parametrize("first", ["cls", "jpg"])
def test_labels_apart_from_their_images_are_refused(tmp_path: Path, first: str) -> None:
    assert refusal(CASES / "inter2.tar").endswith("both are of sample a; pack it sorted, by tar --sort=name")
    extensions = [first, "cls" if first == "jpg" else "jpg"]
    contents = {"cls": b"1", "jpg": jpeg()}
    members = [(f"{key}.{extension}", contents[extension]) for extension in extensions for key in "abc"]
    path = write_tar(tmp_path / "a.tar", members)
    assert "tar --sort=name" in refusal(path)
    write_tar(path, sorted(members))
    assert statuses(read(path, classes=10)) == dict.fromkeys("abc", SampleStatus.OK)


def test_a_mask_apart_from_its_image_is_not_explained_instead(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", PNG), ("b.png", PNG), ("a.webp", PNG), ("b.webp", PNG)])
    assert "is not next to a.png" in refusal(path)


def test_a_plan_of_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("caf\udce9.jpg", jpeg()), ("caf\udce9.png", PNG)])
    assert "caf\\udce9.jpg" in refusal(path)


def test_both_rules_of_keys_agree_on_names_with_one_dot(tmp_path: Path) -> None:
    for grouping in (Grouping(), Grouping("last-dot")):
        assert statuses(read(CASES / "plain.tar", grouping)) == dict.fromkeys("abc", SampleStatus.OK)
    record = ShardRecord("x", str(CASES / "plain.tar"), 3, -1)
    keys = [[sample.key for sample in read_samples(record, 3, Grouping(rule))] for rule in ("first-dot", "last-dot")]
    assert keys[0] == keys[1] == ["a", "b", "c"]
