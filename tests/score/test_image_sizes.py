"""Sizes that the truth does not give come from the atlases among the sources, or are asked for."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import jpeg, write_tar

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import open_source
from pipeline.score.image_sizes import with_atlas_sizes
from pipeline.truth import TruthSet, read_truth
from schemas.errors import UsageError
from schemas.run import Exif, ModelSpec, RunSpec

KEYS = ("plain", "turned", "wide")


def write_atlas(checkpoint: ModelSpec, folder: Path, exif: Exif = "apply", wide: tuple[int, int] = (50, 30)) -> Path:
    """Three images: of 40 × 30 pixels; stored as that, to be turned by 90°; and of another size."""
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {"plain": jpeg(0), "turned": jpeg(1, exif=turned), "wide": jpeg(2, wide)}
    members = [(f"{key}.{kind}", data) for key in KEYS for kind, data in (("jpg", images[key]), ("cls", b"1"))]
    write_tar(folder / "shards" / "0.tar", members)
    shards = (str(folder / "shards" / "0.tar"),)
    plan(RunSpec(shards=shards, model=checkpoint, methods=("center", "uniform"), exif=exif), str(folder / "atlas"))
    run(str(folder / "atlas"), INLINE)
    return folder / "atlas"


@pytest.fixture(scope="module")
def three(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``atlas``, masks of another program and tables of boxes, not to be changed."""
    folder = tmp_path_factory.mktemp("three")
    write_atlas(checkpoint, folder)
    (folder / "masks").mkdir()
    for key, (width, height) in {"plain": (40, 30), "turned": (40, 30), "wide": (50, 30)}.items():
        mask = np.zeros((height, width), np.uint8)
        mask[8:25, 20:39] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{key}.png")
    lines = ["image_id,x0,y0,x1,y1", *(f"{key}.jpg,20,8,38,24" for key in KEYS)]
    (folder / "boxes.csv").write_text("\n".join(lines))
    (folder / "sizes.txt").write_text("plain.jpg,40,30\nturned.jpg,40,30\nwide.jpg,50,30\n")
    return folder


def sizes_of(truth: TruthSet) -> dict[str, tuple[int, int] | None]:
    return {key: image.size for key, image in truth.by_key.items()}


def test_files_beside_an_atlas_have_the_scores_that_they_have_with_a_file_of_sizes(
    vitatlas, three: Path, tmp_path: Path
) -> None:
    given = ["--truth", three / "boxes.csv", "--truth-orientation", "stored", "--json", "--out"]
    sources = [three / "atlas", f"mine={three / 'masks'}"]
    code, text, err = vitatlas("score", *sources, *given, tmp_path / "out")
    assert code == 0, err
    assert text.count('"maxboxacc": 100.0') == 1  # boxes of the masks are those of the truth
    code, other, err = vitatlas("score", *sources, *given, tmp_path / "file", "--sizes", three / "sizes.txt")
    assert (code, other) == (0, text), err
    code, _, err = vitatlas("score", sources[1], *given, tmp_path / "alone")
    assert code == 2
    assert "plain: its truth gives no size of the image" in err


def test_a_size_is_that_of_the_image_which_the_truth_is_of(three: Path, checkpoint: ModelSpec, tmp_path: Path) -> None:
    ignoring = write_atlas(checkpoint, tmp_path, "ignore")
    for orientation, turned in (("stored", (40, 30)), ("upright", (30, 40))):
        truth = read_truth(three / "boxes.csv", orientation)
        files = open_source(str(three / "masks"), truth)
        for path in (three / "atlas", ignoring):
            sized = with_atlas_sizes(truth, [open_source(str(path), truth), files])
            assert sizes_of(sized) == {"plain": (40, 30), "turned": turned, "wide": (50, 30)}
            assert sized.digest != truth.digest
    truth = read_truth(three / "boxes.csv")
    with pytest.raises(UsageError, match=r"turned: has the EXIF orientation 6, .* by --truth-orientation"):
        with_atlas_sizes(truth, [open_source(str(ignoring), truth), files])


def test_sizes_that_differ_are_refused_and_those_of_the_truth_are_left(
    three: Path, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    truth = read_truth(three / "boxes.csv", "stored")
    other = write_atlas(checkpoint, tmp_path, wide=(60, 30))
    files, atlas, wider = (open_source(str(path), truth) for path in (three / "masks", three / "atlas", other))
    with pytest.raises(UsageError, match=r"wide: is 50×30 pixels in .*three.*, but 60×30 in .*; name atlases of the"):
        with_atlas_sizes(truth, [atlas, files, wider])
    assert with_atlas_sizes(truth, [atlas, wider]) is truth  # each places boxes in its own images
    sized = truth.with_sizes(dict.fromkeys(KEYS, (60, 40)))
    assert with_atlas_sizes(sized, [atlas, files]) is sized


def test_maps_that_are_no_size_of_images_are_named_as_the_cause(vitatlas, three: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for key in KEYS:
        np.save(tmp_path / "maps" / f"{key}.npy", np.eye(8))
    given = ["score", tmp_path / "maps", "--truth", three / "boxes.csv", "--sizes", "maps"]
    code, _, err = vitatlas(*given, "--out", tmp_path / "out")
    assert code == 2
    assert "lies outside the image of 8×8 pixels; correct or remove it, or, as --sizes maps took the size of" in err
    assert "several sources, or files of other programs, need a folder for the results" in vitatlas(*given)[2]
