"""What is wrong with annotations is said by the file, the line or the id, before anything is made of it."""

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from truth.writers import drawn, save, write_coco, write_wsol_boxes, write_wsol_masks, write_xml

from pipeline.truth import read_truth
from pipeline.truth.rle import decode
from schemas.errors import UsageError


def read_all(path: Path) -> None:
    """Read everything that a truth holds."""
    truths = read_truth(path)
    for key in truths:
        truth = truths.find(key)
        _ = truth.boxes, truth.mask, truth.ignore


RUNS = {"size": [20, 30], "counts": [600]}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda c: c.pop("annotations"), "instances.json: is not a COCO file"),
        (lambda c: c["annotations"][0].pop("image_id"), "is not a COCO file"),
        (lambda c: c["images"][0].update(file_name=5), "is not a COCO file"),
        (
            lambda c: c["annotations"][0].update(image_id=7),
            "annotation 1 is of image 7, which does not exist; add the image, or remove the annotation",
        ),
        (lambda c: c["images"].append(dict(c["images"][0], file_name="other.jpg")), "two images have the id 0; give"),
        (lambda c: c["images"].append(dict(c["images"][0], id=99)), "two images have the key n01/p0"),
        (lambda c: c["images"][0].update(width=-30), "n01/p0 has the size -30×20"),
        (lambda c: c["images"][0].update(height="20"), "n01/p0 has the size 30×'20'"),
        (lambda c: c["images"][0].update(height=10**7), "truth of n01/p0: 30×10000000 pixels are more than"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "all annotations have iscrowd 1"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "annotation 1 has iscrowd '0'; write 0 for an object, 1 "),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, 5, -5]), "no area in the image"),
        (lambda c: c["annotations"][0].update(bbox=[5000, 0, 4, 5]), "no area in the image"),
        (lambda c: c["annotations"][0].update(bbox=[0.1, 0.25, 0.5, 0.75]), "are these fractions of the image?"),
        (lambda c: c["annotations"][0].update(bbox=[0, -9, 4, 5]), "no area in the image"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "the bbox of annotation 1 cannot be used"),
        (lambda c: c["annotations"][0].update(bbox=["x", 2, 3, 4]), "the bbox of annotation 1 cannot be used"),
        (lambda c: c["annotations"][0].update(bbox=[float("nan"), 2, 3, 4]), "the bbox of annotation 1 cannot be used"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("inf"), 4]), "not all of its numbers are finite"),
        (lambda c: c["annotations"][0].update(bbox=[-float("inf"), 2, 3, 4]), "not all of its numbers are finite"),
        (lambda c: c["annotations"][0].pop("bbox"), "the bbox of annotation 1 cannot be used"),
        (lambda c: c["annotations"][0].update(segmentation="x"), "the segmentation of annotation 1 cannot be used"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "needs x and y of each corner"),
        (lambda c: c["annotations"][0].update(segmentation=[[0, 0, 9e9, 0, 0, 9e9]]), "far outside the image"),
        (lambda c: c["annotations"][0].update(segmentation=RUNS | {"size": [3, 3]}), "not that of the image"),
        (
            lambda c: c["annotations"][0].update(segmentation=RUNS | {"counts": [9]}),
            "do not add up to the pixels",
        ),
        (lambda c: c["annotations"][0].update(segmentation=RUNS | {"counts": ""}), "do not add up to the pixels"),
        (
            lambda c: c["annotations"][0].update(segmentation=RUNS | {"counts": [-1, 601]}),
            "do not add up to the pixels",
        ),
        (lambda c: c["annotations"][0].update(segmentation=RUNS | {"counts": "P" * 8 + "0"}), "more than 32 bits"),
        (lambda c: c["annotations"][0].update(segmentation=RUNS | {"counts": "0" * 4208}), "longer than the image"),
        (lambda c: c["annotations"][0].update(segmentation=RUNS | {"counts": "hb0P"}), "ends within a number"),
    ],
)
def test_of_coco(how: Callable[[dict], object], says: str, tmp_path: Path) -> None:
    write_coco(tmp_path, [drawn()])
    file = tmp_path / "instances.json"
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=says):
        read_all(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"images": 5, "annotations": []}', "[" * 100_000])
def test_what_is_not_coco_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(UsageError, match=r"some.json: is not a COCO file of instances"):
        read_truth(tmp_path / "some.json")


BOXES = "localization.txt, line 2: the box of n01/p0.JPEG is "


@pytest.mark.parametrize(
    ("file", "how", "says"),
    [
        ("localization.txt", "n01/p0.JPEG,5,5,3,9", f"{BOXES}5,5,3,9, which ends before it begins; write x0,y0,x1,y1"),
        ("localization.txt", "n01/p0.JPEG,5,5,9,4", f"{BOXES}5,5,9,4, which ends before it begins"),
        ("localization.txt", "n01/p0.JPEG,30,0,40,9", f"{BOXES}30,0,40,9, which lies outside the image of 30×20"),
        ("localization.txt", "n01/p0.JPEG,0,-9,3,-1", f"{BOXES}0,-9,3,-1, which lies outside the image"),
        (
            "localization.txt",
            "n01/p0.JPEG,0,0,1e30,9",
            f"{BOXES}0,0,1e.30,9, which reaches far outside the image of 30×20",
        ),
        ("localization.txt", "n01/p0.JPEG,0,x,3,9", f"{BOXES}0,x,3,9, which are not all numbers"),
        ("localization.txt", "n01/p0.JPEG,0,nan,3,9", "which are not all numbers"),
        ("localization.txt", "n01/p0.JPEG,0,inf,3,9", "which are not all numbers"),
        ("localization.txt", "n01/p0.JPEG,0,,3,9", "which are not all numbers"),
        ("localization.txt", "n01/p0.JPEG,0,0,3", "localization.txt, line 2: has 4 columns, not id,x0,y0,x1,y1"),
        ("localization.txt", "n01/p0.JPEG,0,0,3,3,3", "localization.txt, line 2: has 6 columns"),
        ("localization.txt", "n01/p9.JPEG,0,0,3,3", "localization.txt, line 2: n01/p9.JPEG is not in image_ids.txt"),
        ("image_ids.txt", "n01/p0.JPEG", "image_ids.txt, line 2: has n01/p0.JPEG a second time"),
        ("image_ids.txt", "n01/p1.JPEG", "image_sizes.txt: has no size of n01/p1.JPEG, which image_ids.txt names"),
        ("image_sizes.txt", "n01/p0.JPEG,3,4", "image_sizes.txt, line 2: has n01/p0.JPEG a second time"),
        ("image_sizes.txt", "n01/p9.JPEG,3,4", "image_sizes.txt, line 2: n01/p9.JPEG is not in image_ids.txt"),
        ("image_sizes.txt", "n01/p0.JPEG,3", "image_sizes.txt, line 2: has 2 columns, not id,width,height"),
        ("image_sizes.txt", "n01/p0.JPEG,0,4", "image_sizes.txt, line 2: n01/p0.JPEG,0,4 is not a size in pixels"),
        ("image_sizes.txt", "n01/p0.JPEG,-3,4", "is not a size in pixels"),
        ("image_sizes.txt", "n01/p0.JPEG,3,x", "is not a size in pixels"),
    ],
)
def test_of_metadata(file: str, how: str, says: str, tmp_path: Path) -> None:
    """The line is the second of its file."""
    write_wsol_boxes(tmp_path, [drawn()])
    lines = (tmp_path / file).read_text().split("\n")
    (tmp_path / file).write_text("\n".join([lines[0], how, *lines[1:]]))
    with pytest.raises(UsageError, match=says):
        read_truth(tmp_path)


def test_images_without_a_line_and_files_that_are_missing(tmp_path: Path) -> None:
    write_wsol_boxes(tmp_path, [drawn("a"), drawn("b")])
    objects = (tmp_path / "localization.txt").read_text()
    (tmp_path / "localization.txt").write_text(objects.split("\nb.JPEG")[0])
    with pytest.raises(UsageError, match=r"localization.txt: has no object of b.JPEG, which image_ids.txt names; add"):
        read_truth(tmp_path)
    (tmp_path / "localization.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"localization.txt: is not text in UTF-8"):
        read_truth(tmp_path)
    (tmp_path / "localization.txt").unlink()
    with pytest.raises(UsageError, match=r"localization.txt: No such file"):
        read_truth(tmp_path)
    (tmp_path / "image_ids.txt").rename(tmp_path / "localization.txt")
    with pytest.raises(UsageError, match=r"image_ids.txt: No such file"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("n01/p0.JPEG,../secret.png,", r"line 3: ../secret.png leads out of the folder of the masks"),
        ("n01/p0.JPEG,/secret.png,", "line 3: /secret.png leads out"),
        ("n01/p0.JPEG,a/../../secret.png,", "leads out of the folder"),
        ("n01/p0.JPEG,..\\secret.png,", "leads out of the folder"),
        ("n01/p0.JPEG,,", "line 3: names no mask"),
        ("n01/p0.JPEG,n01/p0_0.png,n01/p0_ignore.png", "line 3: names ignored pixels a second time"),
        ("n01/p0.JPEG,n01/none.png,", r"n01/none.png: No such file"),
        ("n01/p0.JPEG,n01/junk.png,", r"n01/junk.png: cannot be read as a PNG"),
        ("n01/p0.JPEG,n01/jpeg.png,", r"n01/jpeg.png: cannot be read as a PNG"),
        ("n01/p0.JPEG,n01/small.png,", r"small.png: is 5×5 pixels, but the image is 30×20; is it a mask of n01/p0"),
        ("n01/p0.JPEG,n01/p0_0.png", "line 3: has 2 columns, not id,mask.png,ignore.png"),
    ],
)
def test_of_masks_of_metadata(row: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    write_wsol_masks(folder, [drawn()])
    save(tmp_path / "secret.png", drawn().ignore)
    save(folder / "n01" / "small.png", np.ones((5, 5), bool))
    save(folder / "n01" / "deep.png", np.ones((20, 30), np.uint16))
    (folder / "n01" / "junk.png").write_bytes(b"junk")
    Image.new("L", (30, 20)).save(folder / "n01" / "jpeg.png", "JPEG")
    with (folder / "localization.txt").open("a") as stream:
        stream.write(f"\n{row}")
    with pytest.raises(UsageError, match=says):
        read_truth(folder)


def test_masks_that_are_nowhere_or_of_several_sizes(tmp_path: Path) -> None:
    write_wsol_masks(tmp_path, [drawn()], sizes=False)
    save(tmp_path / "n01" / "p0_1.png", np.ones((21, 30), bool))
    with pytest.raises(UsageError, match=r"p0_1.png: is 30×21 pixels, but .*p0_0.png is 30×20"):
        read_truth(tmp_path)
    (tmp_path / "n01").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"n01/p0_0.png is neither below .*; unpack the masks there"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its first line is not image_id,x0,y0,x1,y1; of metadata, name the folder instead"),
        ("0/0.jpeg,1,2,3,4", "its first line is not image_id,x0,y0,x1,y1"),
        ("image_id,x0,y0,x1,y1\n0/0.jpeg,1,2,3", "boxes.csv, line 2: has 4 columns"),
        ("image_id,x0,y0,x1,y1\n11789,176,136,282,155\n11790,44,183,381,70", "line 3: the box of 11790 .* a width"),
        ("image_id,x0,y0,x1,y1\na.jpeg,1,2,3,4\na.png,1,2,3,4", "boxes.csv: two images have the key a"),
    ],
)
def test_of_a_table(text: str, says: str, tmp_path: Path) -> None:
    """``11789…`` is what CUBV2_boxes.txt begins with: its header is wrong."""
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_truth(tmp_path / "boxes.csv")


def test_a_box_without_a_part_in_the_image_is_found_when_its_size_is_known(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image_id,x0,y0,x1,y1\na/b.jpeg,1,2,3,4\na/b.jpeg,400,2,500,4")
    truth = read_truth(tmp_path / "boxes.csv").find("a/b")
    with pytest.raises(UsageError, match="truth of a/b: box 2 is 400,2,500,4, which lies outside the image of 300"):
        truth.with_size(300, 300)


LAUGHS = '<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "n02/p1.xml: is not XML"),
        ("<annotation>", "n02/p1.xml: is not XML"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "is not XML"),
        (f"{LAUGHS}<annotation>&b;</annotation>", "n02/p1.xml: has a document type"),
        ('<!DOCTYPE annotation SYSTEM "other.dtd"><annotation/>', "has a document type"),
        ("<html/>", "n02/p1.xml: is XML of html, not an annotation"),
        ("<annotation><object/></annotation>", "object has no bndbox; write one"),
        (f"<annotation><object>{2 * f'<bndbox>{BOX}</bndbox>'}</object></annotation>", "object has 2 bndbox elements"),
        (f"<annotation><object><bndbox>{BOX}{BOX}</bndbox></object></annotation>", "bndbox has 2 xmin elements"),
        (f"<annotation>{2 * '<size><width>5</width><height>5</height></size>'}</annotation>", "has 2 size elements"),
        (f"<annotation><object><bndbox>{BOX[:-14]}</bndbox></object></annotation>", "bndbox has no ymax"),
        (f"<annotation><object><bndbox>{BOX.replace('4', 'x')}</bndbox></object></annotation>", "box 1 is 1,2,3,x, w"),
        (
            f"<annotation><object><bndbox>{BOX.replace('3', '0')}</bndbox></object></annotation>",
            "ends before it begins",
        ),
        ("<annotation><size><width>5</width></size></annotation>", "size has no height"),
        ("<annotation><size><width>5</width><height>0</height></size></annotation>", "its size is 5×0"),
        ("<annotation><size><width>5</width><height>-1</height></size></annotation>", "its size is 5×-1"),
    ],
)
def test_of_xml(text: str, says: str, tmp_path: Path) -> None:
    write_xml(tmp_path, [drawn(), drawn("n02/p1")])
    (tmp_path / "n02" / "p1.xml").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_truth(tmp_path)


def crushed(file: Path) -> None:
    """A PNG whose pixels end early."""
    save(file, np.random.default_rng(0).integers(1, 9, (50, 50), np.uint8))
    file.write_bytes(file.read_bytes()[:200])


def long(file: Path) -> None:
    """A PNG whose header says more pixels than are decoded."""
    save(file, np.ones((5, 5), np.uint8))
    data = bytearray(file.read_bytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: save(file, np.array([[0, 255]], np.uint8)), r"is white .* --mask-values indexed\|gray"),
        (lambda file: save(file, np.array([[0, 1, 37, 255]], np.uint8)), r"255, which is white .* --mask-values"),
        (lambda file: save(file, np.arange(90, dtype=np.uint8)[None]), "has 90 values, as many as a gray image"),
        (lambda file: save(file, np.array([[0, 700]], np.uint16)), "is a gray PNG of 16 bits.* --mask-values"),
        (lambda file: save(file, np.full((2, 2, 4), 9, np.uint8)), "other colors than ImageNet-S.* --mask-values gray"),
        (lambda file: save(file, np.full((2, 2, 3), 9, np.uint8)), "other colors than ImageNet-S.* --mask-values gray"),
        (lambda file: save(file, np.full((2, 2, 3), [0, 4, 0], np.uint8)), "other colors than ImageNet-S"),
        (lambda file: save(file, np.array([[[0] * 4, [0, 0, 0, 255]]], np.uint8)), "mask in the alpha channel"),
        (lambda file: file.write_bytes(b"junk"), "cannot be read as a PNG"),
        (lambda file: file.write_bytes(b""), "cannot be read as a PNG"),
        (lambda file: Image.new("L", (3, 3)).save(file, "JPEG"), "cannot be read as a PNG"),
        (crushed, "cannot be read as a PNG"),
        (long, "20000×20000 pixels are more than 100,000,000"),
    ],
)
def test_of_png(write: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    write(tmp_path / "x.png")
    with pytest.raises(UsageError, match=f"x.png: .*{says}"):
        read_all(tmp_path)


def test_a_mask_that_was_written_over_is_not_taken_for_what_the_digest_names(tmp_path: Path) -> None:
    save(tmp_path / "x.png", np.ones((5, 5), np.uint8))
    truth = read_truth(tmp_path).find("x")
    save(tmp_path / "x.png", np.full((5, 5), 2, np.uint8))
    with pytest.raises(UsageError, match=r"x.png: was overwritten"):
        _ = truth.mask


@pytest.mark.parametrize("name", ["nothing", "readme.md", "image.jpg"])
def test_a_folder_of_something_else_is_told_what_was_looked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    says = (
        "holds neither instances.json nor image_ids.txt with localization.txt nor SegmentationClass nor XML "
        "annotations nor PNG masks"
    )
    with pytest.raises(UsageError, match=says):
        read_truth(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.json: No such file"):
        read_truth(tmp_path / "nowhere.json")


@pytest.mark.parametrize("name", ["image.jpg", "a.tsv", "a.jsonl", "a.parquet", "a.xml", "a"])
def test_a_file_of_another_format_is_refused_with_those_that_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'{"images": [], "annotations": []}')
    with pytest.raises(UsageError, match=rf"{name}: .* files are \.mat, \.json, .*\.csv or \.txt"):
        read_truth(tmp_path / name)


def test_a_long_number_is_refused_at_once() -> None:
    """Not after time that grows with the square of its length."""
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="more than 32 bits"):
        decode({"size": [1000, 1000], "counts": "P" * 800_000}, 1000, 1000)
    assert time.perf_counter() - begin < 1


def test_boxes_in_fractions_of_the_image_are_refused_and_one_pixel_is_a_box(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("image_id,x0,y0,x1,y1\na.jpg,0.1,0.2,0.9,1\nb.jpg,0,0,0.5,0.5\n")
    with pytest.raises(
        UsageError, match=r"line 2: the box of a\.jpg is 0\.1,0\.2,0\.9,1, and no box of the file reaches"
    ):
        read_truth(path)
    for boxes in ("a.jpg,0,0,1,1\nb.jpg,0,0,0,0", "a.jpg,0.1,0.2,0.9,1\nb.jpg,0,0,20.5,9.5"):
        path.write_text(f"image_id,x0,y0,x1,y1\n{boxes}\n")
        assert len(read_truth(path)) == 2


def test_a_box_of_coco_below_one_pixel_does_not_end_before_it_begins(tmp_path: Path) -> None:
    write_coco(tmp_path, [drawn()], coded=False)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"][0]["bbox"] = [10.6, 5, 0.3, 4]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert read_truth(tmp_path).by_key["n01/p0"].boxes[0].tolist() == [11, 5, 11, 8]
