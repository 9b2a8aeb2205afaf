"""Predictions that cannot be used, or have two readings, are refused with the file and the fix."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from score.builders import boxed
from score.some_sources import runs_of

from pipeline.score import open_source, score
from pipeline.truth import read_truth
from schemas.errors import UsageError

BOXES = "image_id,x0,y0,x1,y1"


def refuse(path: Path, says: str, tmp_path: Path) -> None:
    """Score a source of one image, s0 of 40 × 30 pixels."""
    truth = read_truth(boxed(tmp_path / "truth.json", ["s0.jpg"]))
    with pytest.raises(UsageError, match=says):
        score(open_source(str(path), truth, "other"), truth, out=str(tmp_path / "out"))
    assert not (tmp_path / "out" / "localization.parquet").exists()


def array(values: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values), allow_pickle=True)
    return stream.getvalue()


def header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def damaged(archive: bytes) -> bytes:
    """Return a ZIP whose first member is no stream of DEFLATE."""
    start = 30 + int.from_bytes(archive[26:28], "little") + int.from_bytes(archive[28:30], "little")
    return archive[:start] + b"\xff" * 8 + archive[start + 8 :]


def encrypted(archive: bytes) -> bytes:
    """Return a ZIP whose first member is flagged as encrypted."""
    entry = archive.index(b"PK\x01\x02")
    return archive[:6] + b"\x01" + archive[7 : entry + 8] + b"\x01" + archive[entry + 9 :]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


GRADIENT = np.arange(240, dtype=np.uint8).reshape(12, 20)
MAP = array(np.eye(5))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("s0.npy", array([{"a": 1}]), "holds object of shape"),
        ("s0.npy", array(np.zeros((2, 3, 4))), r"holds float64 of shape \(2, 3, 4\)"),
        ("s0.npy", array(np.zeros((2, 3), complex)), "write real numbers"),
        ("s0.npy", array(np.zeros((0, 3))), r"shape \(0, 3\)"),
        ("s0.npy", MAP[:-8], "cannot be read as an array"),
        ("s0.npy", b"", "cannot be read as an array"),
        ("s0.npy", header("(1000000, 1000000)"), "pixels are more than"),
        ("s0.npy", header("(3, 3)", "'|O'"), "holds object"),
        ("s0.npz", zipped(("a.npy", MAP), ("b.npy", MAP)), "has 2 arrays"),
        ("s0.npz", b"PK\x03\x04", "cannot be read as an array"),
        ("s0.npz", zipped(("a.npy", b"text")), "cannot be read as an array"),
        ("s0.npz", damaged(zipped(("a.npy", MAP))), "cannot be read as an array"),
        ("s0.npz", encrypted(zipped(("a.npy", MAP))), "cannot be read as an array"),
        ("s0.png", png(Image.new("RGB", (9, 9))), "colors have no order"),
        ("s0.png", png(Image.new("RGBA", (9, 9))), "colors have no order"),
        ("s0.png", png(Image.fromarray(GRADIENT).convert("P")), "more than 64 indices"),
        ("s0.png", png(Image.fromarray(np.where(GRADIENT > 99, 255, 0).astype(np.uint8)).convert("P")), "255 in white"),
        ("s0.png", png(Image.fromarray(GRADIENT % 3)), "3 numbers up to 2, which may be objects or scores"),
        ("s0.png", png(Image.new("L", (9, 9), 255)), "is 255 everywhere, which may be a mask of the whole image"),
        ("s0.npy", array(np.ones((9, 9), int)), "is 1 everywhere"),
        ("s0.png", b"\x89PNG", "cannot be read as a PNG"),
        ("s0.npy", array(np.random.default_rng(0).random((40, 30))), "transpose it"),
    ],
)
def test_a_map_that_cannot_be_used(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / name).write_bytes(data)
    refuse(tmp_path / "maps", f"{name}: .*{says}" if "transpose" not in says else says, tmp_path)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"s0.npy": MAP, "s0.png": png(Image.new("1", (9, 9)))}, "has both arrays and PNGs"),
        ({"s0.npy": MAP, "s0.jpg.npy": MAP}, "are both maps of s0"),
        ({"s0.npy": MAP, "s0.npz": zipped(("a.npy", MAP))}, "are both maps of s0"),
        ({"readme.txt": b"x"}, r"has no .npy, .npz, .png files \(1 other files, such as readme.txt\)"),
        ({".s0.npy": MAP}, "such as .s0.npy"),
    ],
)
def test_a_folder_with_two_readings_or_none(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    (tmp_path / "maps").mkdir()
    for name, data in files.items():
        (tmp_path / "maps" / name).write_bytes(data)
    refuse(tmp_path / "maps", says, tmp_path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    os.mkfifo(tmp_path / "maps" / "s0.npy")
    refuse(tmp_path / "maps", "s0.npy: is no file", tmp_path)


def test_other_files_of_a_folder_are_counted(tmp_path: Path) -> None:
    (tmp_path / "maps" / "sub").mkdir(parents=True)
    (tmp_path / "maps" / "s0.npy").write_bytes(MAP)
    (tmp_path / "maps" / "sub" / "notes.md").write_bytes(b"x")
    truth, messages = read_truth(boxed(tmp_path / "truth.json", ["s0.jpg"])), []
    source = open_source(str(tmp_path / "maps"), truth, log=messages.append)
    assert source.images(source.shard_names[0])[0].key == "s0"
    assert messages == [f"1 files of {tmp_path / 'maps'} are no maps and are left out, such as sub/notes.md"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_id,x0,y0,w,h\ns0,1,1,3,3", "its first line is not image_id,x0,y0,x1,y1,score"),
        (f"{BOXES}\ns0,1,1,3", "line 2: has 4 columns"),
        (f"{BOXES}\ns0,1,1,3,nan", "not all numbers"),
        (f"{BOXES}\ns0,0.1,0.1,0.5,0.5", "no box of the file reaches beyond 1"),
        (f"{BOXES}\ns0,20,20,5,5", "s0: its predicted box is 20,20,5,5, which ends before it begins"),
        (f"{BOXES}\ns0,50,20,60,25", r"lies outside the image of 40×30 pixels"),
        (f"{BOXES}\ns0,1,1,3,3\ns0.jpg,2,2,9,9", "s0 has 2 boxes and no score"),
        (f"{BOXES},score\ns0,1,1,3,3,inf", "not all numbers"),
        (BOXES, "has no predictions"),
    ],
)
def test_a_table_of_boxes_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    refuse(tmp_path / "boxes.csv", says, tmp_path)


RUNS = runs_of(np.eye(30, 40) > 0)
HALF_SIZE = runs_of(np.eye(15, 20) > 0)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ("{", "is not a COCO file of results"),
        ({"images": [], "annotations": []}, "is not a list of results"),
        ([], "has no predictions"),
        ([{"image_id": 7, "bbox": [1, 1, 2, 2], "score": 1}], "image_id 7 is none of truth.json"),
        ([{"image_id": None, "bbox": [1, 1, 2, 2], "score": 1}], "result 0 has no image_id"),
        ([{"image_id": 0, "bbox": [1, 1, 0, 2], "score": 1}], r"bbox \[1, 1, 0, 2\] cannot be used"),
        ([{"image_id": 0, "score": 1}], "bbox None cannot be used"),
        ([{"image_id": 0, "bbox": [1, 1, 2, 2], "score": "high"}], "score 'high' is not a finite number"),
        ([{"image_id": 0, "bbox": [1, 1, 2, 2], "score": 10**400}], "is not a finite number"),
        ([{"image_id": 0, "bbox": [1, 1, 2, 2]}] * 2, "s0 has 2 boxes and no score"),
        ([{"image_id": 0, "bbox": [0.1, 0.1, 0.2, 0.2], "score": 1}], "bbox|no box of the file reaches beyond 1"),
        ([{"image_id": 0, "bbox": [10, 10, 35, 28], "score": 1}] * 10, "its boxes are x0,y0,x1,y1 and not x,y,width"),
        ([{"image_id": 0, "segmentation": RUNS}, {"image_id": 0, "bbox": [1, 1, 2, 2]}], "1 of 2 results have a mask"),
        ([{"image_id": 0, "segmentation": RUNS, "score": -1}], "one below 0"),
        ([{"image_id": 0, "segmentation": [[0, 0, 5, 0, 5, 5]]}], "not in run lengths"),
        ([{"image_id": 0, "segmentation": {"size": [30, 40], "counts": [3]}}], "do not add up to the pixels"),
        ([{"image_id": 0, "segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}], "more than 100,000,000"),
        ([{"image_id": 0, "segmentation": {"size": [True, 1200], "counts": [1200]}}], "has run lengths without a size"),
        ([{"image_id": 0, "segmentation": HALF_SIZE}], "is 20×15 pixels|40×30"),
        ([{"image_id": 0, "segmentation": runs} for runs in (RUNS, HALF_SIZE)], "s0: has masks of 2 sizes"),
    ],
)
def test_results_that_cannot_be_used(tmp_path: Path, results: object, says: str) -> None:
    text = results if isinstance(results, str) else json.dumps(results)
    (tmp_path / "results.json").write_text(text)
    refuse(tmp_path / "results.json", says, tmp_path)


def test_a_tar_that_cannot_be_read_one_by_one(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "s0.npy").write_bytes(MAP)
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as archive:
        archive.add(tmp_path / "s0.npy", "s0.npy")
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("s0.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "text.tar").write_text("x" * 600)
    for name, says in (("gz", "is compressed"), ("links", "is a symbolic link"), ("text", "cannot be read as a tar")):
        refuse(tmp_path / f"{name}.tar", says, tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "maps.zip"])
def test_what_is_no_source_is_named_with_all_kinds(tmp_path: Path, name: str) -> None:
    (tmp_path / "maps.zip").write_bytes(b"x")
    refuse(tmp_path / name, "is not an atlas, a folder or .tar of .npy, .npz or .png maps, .json results", tmp_path)


def test_files_are_found_from_every_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = read_truth(boxed(tmp_path / "truth.json", ["s0.jpg"]))
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "s0.npy").write_bytes(MAP)
    monkeypatch.chdir(tmp_path)
    source = open_source("maps", truth)
    monkeypatch.chdir("/")
    ((_, read),) = source.predictions(source.shard_names[0], source.methods)
    assert np.array_equal(read()["maps"], np.eye(5))


def test_a_box_below_one_pixel_is_one_pixel(tmp_path: Path) -> None:
    truth = read_truth(boxed(tmp_path / "truth.json", ["s0.jpg"]))
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": 0, "bbox": [10.6, 5, 0.3, 4], "score": 1}]))
    source = open_source(str(tmp_path / "results.json"), truth)
    ((_, read),) = source.predictions(source.shard_names[0], source.methods)
    assert read()["results"].tolist() == [10.6, 5, 10.6, 8]


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ("60,70,90,95", "boxes.csv end outside of their image"),
        ("3,2,12,14", "boxes.csv reaches beyond 32 % of the width and 50 % of the height of its image"),
        ("3,2,30,14", None),
    ],
)
def test_boxes_that_are_hardly_in_pixels_are_named(box: str, says: str | None, tmp_path: Path) -> None:
    names = [f"s{number}.jpg" for number in range(10)]
    truth = read_truth(boxed(tmp_path / "truth.json", names))
    (tmp_path / "boxes.csv").write_text("\n".join([BOXES, *(f"{name},{box}" for name in names)]))
    said: list[str] = []
    open_source(str(tmp_path / "boxes.csv"), truth, log=said.append)
    assert [says in line for line in said] == [True] if says else not said
