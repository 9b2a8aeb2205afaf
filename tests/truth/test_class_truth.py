"""Truth that has classes: points of OpenImages V7 and masks of PASCAL VOC, in the layout of their authors."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.image.orientation import apply_orientation, orient_points
from pipeline.truth import read_truth
from pipeline.truth.point_labels import PointTruth
from pipeline.truth.voc import CLASSES, ClassMaskTruth
from schemas.errors import UsageError

HEADER = "ImageId,X,Y,Label,EstimatedYesNo,Source,YesVotes,NoVotes,UnsureVotes,TextLabel"
LINES = (
    "0001eeaf4aed83f9,0.25,0.5,/m/01yrx,yes,ih,1,0,0,Cat",
    "0001eeaf4aed83f9,0.75,0.125,/m/01yrx,no,cc,0,3,0,Cat",
    "0001eeaf4aed83f9,0.5,0.5,/m/0bt9lr,unsure,ih,0,0,1,Dog",
    '000595fe6fee6369,0.0,1.0,/m/0bt9lr,no,ih,0,1,0,"Dog, domestic"',
)


def points(folder: Path, *lines: str, header: str = HEADER, names: str | None = None) -> Path:
    file = folder / "oidv7-val-annotations-point-labels.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    if names is not None:
        (folder / "oidv7-class-descriptions.csv").write_text(names)
    return file


def test_points_are_read_by_image_and_unsure_ones_left_out(tmp_path: Path) -> None:
    truth = read_truth(points(tmp_path, *LINES))
    assert list(truth) == ["0001eeaf4aed83f9", "000595fe6fee6369"]
    first, second = truth.by_key.values()
    assert isinstance(first, PointTruth)
    assert isinstance(second, PointTruth)
    assert first.points.tolist() == [[0.25, 0.5], [0.75, 0.125]]
    assert first.is_yes.tolist() == [True, False]
    assert [truth.classes[place] for place in first.class_ids] == [("/m/01yrx", "Cat")] * 2
    assert truth.classes[second.class_ids[0]] == ("/m/0bt9lr", "Dog, domestic")
    assert (first.is_annotated, second.is_annotated) == (True, False)


@pytest.mark.parametrize("header", ["", "LabelName,DisplayName\n"])
def test_names_are_those_of_the_file_of_classes(header: str, tmp_path: Path) -> None:
    file = points(tmp_path, *LINES, names=f'{header}/m/01yrx,Domestic cat\n/m/01,"A, b"\n')
    assert read_truth(file).classes[0] == ("/m/01yrx", "Domestic cat")
    other = read_truth(points(tmp_path, *LINES, names="/m/01yrx,Cat\n")).digest
    assert other != read_truth(points(tmp_path, *LINES, names="/m/01yrx,Feline\n")).digest


def test_files_without_names_have_ids(tmp_path: Path) -> None:
    header = HEADER.removesuffix(",TextLabel")
    assert read_truth(points(tmp_path, "a,0,0,/m/01yrx,yes,ih,1,0,0", header=header)).classes == (("/m/01yrx",),)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["a,0.1,0.2,,yes,ih,1,0,0,"], "line 2: names no class"),
        ([",0.1,0.2,/m/1,yes,ih,1,0,0,"], "line 2: names no image"),
        (
            ["a,0.1,0.2,/m/1,yes,ih,1,0,0,", "a,0.1,0.2,/m/1,maybe,ih,1,0,0,"],
            "line 3: is not answered by yes, no or unsure",
        ),
        (["a,1.2,0.2,/m/1,yes,ih,1,0,0,"], r"line 2: has no point in \[0, 1\]"),
        (["a,nan,0.2,/m/1,yes,ih,1,0,0,"], r"line 2: has no point in \[0, 1\]"),
        (["a,x,0.2,/m/1,yes,ih,1,0,0,"], "is not a CSV of point labels"),
        (["a,0.1"], "is not a CSV of point labels"),
    ],
)
def test_lines_that_cannot_be_meant_are_named(lines: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"point-labels.csv.*{says}"):
        read_truth(points(tmp_path, *lines))


def test_another_header_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no column ImageId; there are ImageID, X"):
        read_truth(points(tmp_path, header=HEADER.replace("ImageId", "ImageID")))


def test_points_are_no_boxes(tmp_path: Path) -> None:
    (truth,) = read_truth(points(tmp_path, LINES[0])).by_key.values()
    with pytest.raises(UsageError, match="has points of classes, no boxes or masks; only vitatlas score takes it"):
        _ = truth.boxes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_turned_with_their_image(orientation: int) -> None:
    image = np.zeros((6, 8), np.uint8)
    image[1, 5] = 255
    upright = np.asarray(apply_orientation(Image.fromarray(image), orientation))
    ((x, y),) = orient_points(np.array([[5.5 / 8, 1.5 / 6]]), orientation)
    assert upright[int(y * upright.shape[0]), int(x * upright.shape[1])] == 255


def test_points_of_a_turned_image_are_refused_until_someone_says_of_which(tmp_path: Path) -> None:
    file, sample = points(tmp_path, LINES[0]), {"width": 30, "height": 40, "orientation": 6}
    with pytest.raises(UsageError, match=r"--truth-orientation stored\|upright"):
        read_truth(file).by_key["0001eeaf4aed83f9"].place(sample, "apply")
    for said, code in (("stored", 6), ("upright", 1)):
        truth = read_truth(file, said).by_key["0001eeaf4aed83f9"]  # type: ignore[arg-type]
        assert truth.place(sample, "apply") == (truth, code)


def voc(folder: Path, values: np.ndarray, name: str = "SegmentationClass") -> Path:
    (folder / name).mkdir(parents=True)
    Image.fromarray(values.astype(np.uint8), "L").convert("P").save(folder / name / "2007_000032.png")
    return folder


VALUES = np.array([[0, 1, 20], [255, 15, 15]])


@pytest.mark.parametrize("named", [".", "SegmentationClass"])
def test_values_of_voc_are_classes(named: str, tmp_path: Path) -> None:
    voc(tmp_path / "VOC2012", VALUES)
    (tmp_path / "VOC2012" / "Annotations").mkdir()
    (tmp_path / "VOC2012" / "Annotations" / "2007_000032.xml").write_text("<annotation/>")
    truth = read_truth(tmp_path / "VOC2012" / named)
    assert truth.classes == tuple((name,) for name in CLASSES)
    assert (CLASSES[0], CLASSES[14], CLASSES[19]) == ("aeroplane", "person", "tvmonitor")
    image = truth.by_key["2007_000032"]
    assert isinstance(image, ClassMaskTruth)
    assert image.class_map().tolist() == [[0, 1, 20], [-1, 15, 15]]


def test_the_augmented_masks_are_named_by_their_folder(tmp_path: Path) -> None:
    folder = voc(tmp_path, VALUES, "SegmentationClassAug") / "SegmentationClassAug"
    assert len(read_truth(folder).classes) == 20


def test_a_folder_with_classes_of_its_own_is_not_taken_for_voc(tmp_path: Path) -> None:
    (voc(tmp_path, VALUES) / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n")
    assert read_truth(tmp_path).classes == ()


def test_a_value_that_is_no_class_is_named(tmp_path: Path) -> None:
    image = read_truth(voc(tmp_path, np.array([[0, 21]]))).by_key["2007_000032"]
    assert isinstance(image, ClassMaskTruth)
    with pytest.raises(UsageError, match=r"2007_000032.png: is not an indexed PNG of 0 … 20 and 255"):
        image.class_map()
