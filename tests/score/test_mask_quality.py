"""Scores of pseudo-masks, against their formulas on masks drawn by hand."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from pipeline.label.mask import Label
from pipeline.score import score_masks
from pipeline.truth import Truth, TruthSet
from schemas.errors import RunFailedError, UsageError

RNG = np.random.default_rng(0)
SHAPE = (20, 30)
RECORD = b'{"status": "ok", "label": 3, "orientation": 1, "exif": "apply"}'


class Known(Truth):
    """An image whose truth stands in memory."""

    def __init__(self, key: str, mask: np.ndarray | None, ignore: np.ndarray) -> None:
        super().__init__(key, SHAPE[1], SHAPE[0])
        object.__setattr__(self, "both", (mask, ignore))

    boxes = np.zeros((1, 4), np.int64)
    mask = property(lambda self: self.both[0])
    ignore = property(lambda self: self.both[1])


def draw(share: float) -> np.ndarray:
    return RNG.random(SHAPE) < share


MASKS = {f"folder/{name}": draw(0.3) for name in "abc"} | {"empty": np.zeros(SHAPE, bool)}
IGNORED = {key: draw(0.2) & ~mask for key, mask in MASKS.items()}
REAL = {key: draw(0.4) for key in MASKS} | {"unlabelled": draw(0.5)}
LEFT_OUT = {key: draw(0.1) for key in REAL}
TRUTH = TruthSet(
    "truth",
    "sha256:0",
    {key: Known(key, real, LEFT_OUT[key]) for key, real in REAL.items()}
    | {"box": Known("box", None, np.zeros(SHAPE, bool))},
    False,
)


def sample(key: str, shard: str = "part-0") -> dict[str, object]:
    return {"shard": shard, "key": key, "orientation": 1}


def labels() -> Iterator[Label]:
    for key, mask in MASKS.items():
        coded = [rle.encode(np.asfortranarray(pixels, np.uint8)) for pixels in (mask, IGNORED[key])]
        yield Label(sample(key), "ok", mask_rle=coded[0], ignore_rle=coded[1])
    yield Label(sample("unlabelled"), "too_small")
    yield Label(sample("box"), "ok", mask_rle=coded[0])
    yield Label(sample("unheard of"), "ok", mask_rle=coded[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same labels as PNG in a shard."""
    (tmp_path / "png").mkdir()
    with tarfile.open(tmp_path / "png" / "part-0.tar", "w") as archive:
        for key, mask in MASKS.items():
            image = Image.fromarray(np.where(IGNORED[key], 255, mask).astype(np.uint8)).convert("P")
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            for name, data in ((f"{key}.mask.png", buffer.getvalue()), (f"{key}.json", RECORD)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return tmp_path


def expected() -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {name: [] for name in ("iou", "right", "right of all", "object", "labelled")}
    for key, mask in MASKS.items():
        counted = ~LEFT_OUT[key] | REAL[key]
        mask, real, labelled = mask[counted], REAL[key][counted], ~IGNORED[key][counted]
        scores["iou"].append((mask & real).sum() / (mask | real).sum())
        scores["right"].append(float((mask == real)[labelled].mean()))
        scores["right of all"].append(float((mask == real).mean()))
        scores["object"].append(float(real[mask].mean()) if mask.any() else 0.0)
        scores["labelled"].append(float(labelled.mean()))
    return scores


@pytest.mark.parametrize("kind", ["labels", "folder"])
def test_every_figure_is_its_formula(kind: str, folder: Path) -> None:
    scores = score_masks(labels() if kind == "labels" else str(folder), TRUTH)
    by_hand = expected()
    assert (scores.images, scores.unlabelled) == (4, 1)
    assert scores.mean_iou == pytest.approx(100 * np.mean(by_hand["iou"]))
    assert scores.precision == pytest.approx(100 * np.mean(by_hand["right"]))
    assert scores.precision_without_ignoring == pytest.approx(100 * np.mean(by_hand["right of all"]))
    assert scores.object_precision == pytest.approx(100 * np.mean(by_hand["object"]))
    assert scores.coverage == pytest.approx(100 * np.mean(by_hand["labelled"]))
    assert scores.ious == pytest.approx(dict(zip(MASKS, by_hand["iou"], strict=True)))


def test_without_labels_there_is_no_number() -> None:
    scores = score_masks([], TRUTH)
    assert (scores.images, scores.unlabelled) == (0, 5)
    assert np.isnan(scores.mean_iou)


def test_a_folder_without_masks_or_with_damaged_ones_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no png/\*\.tar; make some with vitatlas label"):
        score_masks(str(tmp_path / "nowhere"), TRUTH)
    shard = folder / "png" / "part-0.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(RunFailedError, match=r"png/part-0\.tar: it is truncated.*label its shard again"):
        score_masks(str(folder), TRUTH)


def test_masks_of_another_size_are_refused() -> None:
    coded = rle.encode(np.ones((5, 5), np.uint8, "F"))
    with pytest.raises(UsageError, match="empty: is 5×5 pixels, but 30×20 in the truth"):
        score_masks([Label(sample("empty"), "ok", mask_rle=coded)], TRUTH)


def test_masks_whose_orientation_is_not_recorded_are_refused(folder: Path) -> None:
    shard = folder / "png" / "part-0.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"exif"', b'"else"'))
    with pytest.raises(UsageError, match=r"folder/a\.json: lacks orientation and exif of its image; label again"):
        score_masks(str(folder), TRUTH)


def test_two_labels_of_one_truth_are_named() -> None:
    coded = rle.encode(np.asfortranarray(MASKS["folder/a"], np.uint8))
    twice = [Label(sample("folder/a", shard), "ok", mask_rle=coded) for shard in ("part-0", "part-1")]
    with pytest.raises(UsageError, match="folder/a would be the truth of folder/a in part-1 and folder/a in part-0"):
        score_masks(twice, TRUTH)


def test_an_image_of_which_everything_is_ignored_has_no_scores() -> None:
    nothing, everything = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    truth = TruthSet("truth", "sha256:0", {"x": Known("x", nothing, everything)}, False)
    coded = rle.encode(np.asfortranarray(everything, np.uint8))
    scores = score_masks([Label(sample("x"), "ok", mask_rle=coded)], truth)
    assert (scores.images, scores.unlabelled) == (0, 0)
