"""Scores of packed data equal those computed from the source's own numbers by the protocol written out in NumPy."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pack_sources as sources
import pytest
import timm
import torch
from label.wsol_reference import Scores, evaluate
from pycocotools import mask as rle
from safetensors.torch import save_file
from support import soak_after

from pipeline.label import label
from pipeline.pack import pack
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import localization_table, score
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec

METHODS = ("attention", "center")
SIDE = 224


@dataclass
class Drawn:
    """What a source says of an image of 40 × 30 pixels: label, boxes with inclusive ends, and masks of the pixels."""

    label: int | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    mask: np.ndarray | None = None
    ignored: np.ndarray | None = None


def pixels(*blocks: tuple[int, int, int, int], size: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Bool [height, width] of blocks x0, y0, x1, y1, ends inclusive."""
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in blocks:
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


POLYGON = rle.decode(rle.frPyObjects([[20.0, 10.0, 30.0, 10.0, 30.0, 20.0, 20.0, 20.0]], 30, 40))[..., 0].astype(bool)
BIRD = pixels((8, 5, 19, 14))
VALIDATION = {f"ILSVRC2012_val_0000000{n}": Drawn(label, ((0, 3, 9 + n, 29),)) for n, label in ((1, 0), (2, 2), (3, 1))}
HALF = pixels((3, 2, 8, 4), size=(15, 20))
DRAWN = {
    "cub": {
        "001.Black_footed_Albatross/A_0001_1": Drawn(0, ((6, 2, 26, 17),), BIRD),
        "002.Ani/B_0001_3": Drawn(1, ((1, 3, 39, 29),), BIRD),
    },
    "validation": VALIDATION,
    "kaggle": VALIDATION,
    "voc": {
        "2008_000001": Drawn(
            None,
            ((0, 0, 9, 9), (10, 0, 39, 29)),
            pixels((0, 0, 9, 9), (10, 0, 39, 29)),
            pixels((0, 10, 9, 11)),
        ),
        "2008_000002": Drawn(None, ((1, 2, 19, 29),), ignored=pixels((0, 0, 4, 4))),
    },
    "coco": {"0007": Drawn(None, ((3, 2, 8, 7), (20, 10, 30, 19)), pixels((3, 2, 8, 7)) | POLYGON), "0009": Drawn()},
    "lists of boxes": {"val/n1/a": Drawn(0, ((0, 2, 20, 25),)), "val/n1/b_c": Drawn(1, ((1, 2, 20, 25),))},
    "lists of masks": {"val/n1/a": Drawn(0, mask=HALF), "val/n1/b_c": Drawn(1, mask=HALF)},
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A tiny network of as many classes as VOC has."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=20).state_dict(), path)
    return ModelSpec(name="test_vit", checkpoint=str(path))


def iou(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of each pair, ends inclusive: float [len(boxes), len(other)]."""
    low = np.maximum(boxes[:, None, :2], other[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], other[None, :, 2:])
    both = np.clip(high - low + 1, 0, None).prod(2)
    areas = [(each[:, 2:] - each[:, :2] + 1).prod(1) for each in (boxes, other)]
    return both / (areas[0][:, None] + areas[1] - both)


def hits(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Bool [4, 1000]: IoU 0.5 of the largest contour; IoU 0.3, 0.5, 0.7 of any, at each threshold."""
    gray = (values * 255).astype(np.uint8)
    found, levels = [], (np.arange(0, 1, 0.001) * int(gray.max())).astype(int)
    for level in np.unique(levels):
        foreground = (gray > level).astype(np.uint8)
        contours = cv2.findContours(foreground, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        rectangles = np.array([cv2.boundingRect(contour) for contour in contours] or [(0, 0, 0, 0)])
        ends = np.minimum(rectangles[:, :2] + rectangles[:, 2:], SIDE - 1)
        largest = int(np.argmax([cv2.contourArea(contour) for contour in contours] or [0]))
        ious = iou(np.concatenate([rectangles[:, :2], ends], 1), truth).max(1)
        found.append([ious[largest] >= 0.5, *(ious.max() >= delta for delta in (0.3, 0.5, 0.7))])
    return np.array(found)[np.searchsorted(np.unique(levels), levels)].T


def pixel_average_precision(values: np.ndarray, truth: np.ndarray) -> float:
    """Σ P(τ) · ΔR(τ) over the pixels of all images, from the highest τ down."""
    total, recall = 0.0, 0.0
    for threshold in [1.0, *np.arange(0, 1, 0.001)[::-1]]:
        at_or_above = values >= threshold
        if at_or_above.any():
            found = (at_or_above & truth).sum()
            total += found / at_or_above.sum() * (found / truth.sum() - recall)
            recall = found / truth.sum()
    return 100 * total


def direct_scores(atlas: Atlas, method: str, target: str, drawn: dict[str, Drawn]) -> dict[str, float]:
    curves, values, truths = [], [], []
    for key, image in drawn.items():
        resized = cv2.resize(atlas.map(key, method, target).astype(float), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        scaled = (resized - resized.min()) / (resized.max() - resized.min())
        if image.boxes:
            curves.append(hits(scaled, np.array(image.boxes) * SIDE // np.array([40, 30, 40, 30])))
        if image.mask is not None:
            sizes = {"dsize": (SIDE, SIDE), "interpolation": cv2.INTER_NEAREST}
            mask = cv2.resize(image.mask.astype(np.uint8), **sizes).astype(bool)
            ignored = np.zeros_like(image.mask) if image.ignored is None else image.ignored
            counted = mask | ~cv2.resize(ignored.astype(np.uint8), **sizes).astype(bool)
            values.append(scaled[counted])
            truths.append(mask[counted])
    scores = {}
    if curves:
        best = 100 * np.mean(curves, 0).max(1)
        scores = {"maxboxacc": best[0], "maxboxacc_v2": best[1:].mean()}
    if values:
        scores["pxap"] = pixel_average_precision(np.concatenate(values), np.concatenate(truths))
    return scores


@pytest.mark.parametrize("name", soak_after(1, ["voc", *sorted(DRAWN.keys() - {"voc"})]))
def test_scores_of_packed_shards_equal_a_direct_computation(
    name: str, network: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        localization_table, "plot_scores", lambda *_: (b"",) * len(localization_table.PLOTS)
    )  # not looked at
    kind, source, split = sources.ALL[name](tmp_path / "in")
    record, _ = pack(kind, source, tmp_path / "out", split, per_shard=2)
    drawn = DRAWN[name]
    target = "predicted" if name in ("voc", "coco") else "label"
    shards = f"{tmp_path / 'out' / record.split}-*.tar"
    plan(RunSpec(shards=(shards,), model=network, methods=METHODS, targets=(target,)), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    labels = dict(zip(*(atlas.samples()[column].to_pylist() for column in ("key", "label")), strict=True))
    assert labels.keys() == drawn.keys()
    if target == "label":
        assert labels == {key: image.label for key, image in drawn.items()}
    subset = any(not image.boxes and image.mask is None for image in drawn.values())
    rows = score(atlas, read_truth(tmp_path / "out" / "truth"), target, subset=subset, out=str(tmp_path / "scores"))
    by_method = {row["method"]: row for row in rows.to_pylist()}
    for method in METHODS:
        for metric, value in direct_scores(atlas, method, target, drawn).items():
            assert by_method[method][metric] == pytest.approx(value, abs=1e-6), (method, metric)
    truth = read_truth(tmp_path / "out" / "truth").by_key
    for key, image in drawn.items():
        if image.ignored is not None:
            assert np.array_equal(truth[key].ignore, image.ignored)


@pytest.mark.parametrize("name", soak_after(1, ["test_resnet", "resnet50", "inception_v3"]))
def test_cam_of_a_convolutional_network_on_cub_has_the_scores_of_the_reference(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the protocol written out in NumPy, and by the evaluator that reads exported score maps."""
    monkeypatch.setattr(localization_table, "plot_scores", lambda *_: (b"",) * len(localization_table.PLOTS))
    kind, source, split = sources.ALL["cub"](tmp_path / "in")
    pack(kind, source, tmp_path / "out", split, per_shard=2)
    torch.manual_seed(1)
    save_file(timm.create_model(name, num_classes=20).state_dict(), tmp_path / "weights.safetensors")
    model = ModelSpec(name=name, checkpoint=str(tmp_path / "weights.safetensors"))
    shards = f"{tmp_path / 'out' / 'test'}-*.tar"
    plan(RunSpec(shards=(shards,), model=model, methods=("cam",), targets=("label",)), str(tmp_path / "atlas"))
    atlas = run(str(tmp_path / "atlas"), INLINE)
    (row,) = (
        row
        for row in score(
            atlas, read_truth(tmp_path / "out" / "truth"), "label", out=str(tmp_path / "scores")
        ).to_pylist()
        if row["method"] == "cam"
    )
    drawn = DRAWN["cub"]
    for metric, value in direct_scores(atlas, "cam", "label", drawn).items():
        assert row[metric] == pytest.approx(value, abs=1e-6), metric
    label(
        atlas, Policy(name="p", methods=("cam",), threshold=Threshold(kind="otsu")), ["wsol"], str(tmp_path / "masks")
    )
    metadata = tmp_path / "metadata"
    metadata.mkdir()
    files = {key: f"{key}.jpg" for key in drawn}
    lines = {
        "image_ids": [files[key] for key in drawn],
        "image_sizes": [f"{files[key]},40,30" for key in drawn],
        "localization": [f"{files[key]},{','.join(map(str, box))}" for key in drawn for box in drawn[key].boxes],
    }
    for list_name, content in lines.items():
        (metadata / f"{list_name}.txt").write_text("\n".join(content))
    maps = tmp_path / "masks" / "wsol" / "score_maps"
    known = [str(file.relative_to(maps))[: -len(".npy")] for file in maps.rglob("*.npy")]
    assert sorted(known) == sorted(files.values()), known
    masks = {files[key]: drawn[key].mask for key in drawn}
    expected = Scores(row["maxboxacc"], row["maxboxacc_v2"], row["pxap"])
    assert evaluate(maps, metadata, masks) == pytest.approx(expected, abs=1e-9)
