"""Every score of a few images, computed once more from the images themselves."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from pipeline.image.iou import box_iou
from pipeline.image.score_map import score_map
from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.aggregate import score_method
from pipeline.score.box_metrics import BOX_THRESHOLDS, contour_boxes
from pipeline.score.counters import TUNING_GROUPS, ScoreCounts
from pipeline.score.pixel_metrics import MASK_THRESHOLDS
from pipeline.score.score_shard import ScoredImage, count_boxes, count_map
from pipeline.score.trivial_boxes import TRIVIAL_BOXES
from schemas.scores import ERROR_KINDS, SCORES

RNG = np.random.default_rng(5)
WINDOW = (0, 0, 1, 1)
NONE = np.zeros((224, 224), bool)


def scene(number: int) -> tuple[np.ndarray, ScoredImage]:
    """A map that is roughly right, and the object."""
    side = int(RNG.choice([40, 70, 130, 190]))
    x, y = (int(corner) for corner in RNG.integers(0, 224 - side, 2))
    mask = NONE.copy()
    mask[y : y + side, x : x + side] = True
    values = mask.reshape(14, 16, 14, 16).mean((1, 3)) + RNG.normal(0, 0.3, (14, 14))
    split = number % 3 == 0
    group = (TUNING_GROUPS.start if split else 0) + number % 10
    return values, ScoredImage(
        group, np.array([[x, y, x + side - 1, y + side - 1]]), mask, NONE, int(RNG.integers(8)), WINDOW
    )


SCENES = [scene(number) for number in range(18)]
SPLIT = [case for case in SCENES if case[1].group >= TUNING_GROUPS.start]
REST = [case for case in SCENES if case[1].group < TUNING_GROUPS.start]


def tally(scenes: list[tuple[np.ndarray, ScoredImage]]) -> ScoreCounts:
    total = ScoreCounts()
    for values, image in scenes:
        total.add(image.group, count_map(values, image))
    return total


ROW = score_method("label", tally(SCENES)).columns


def hit(scene: tuple[np.ndarray, ScoredImage], threshold: float, delta: float, largest: bool) -> bool:
    gray = (score_map(scene[0]) * 255).astype(np.uint8)
    boxes, place = contour_boxes(gray, int(threshold * 255))
    best = box_iou(boxes, scene[1].boxes)
    return bool((best[place] if largest else best).max() >= delta)


def box_acc(scenes: list, threshold: float, delta: float, largest: bool) -> float:
    return 100 * float(np.mean([hit(case, threshold, delta, largest) for case in scenes]))


def oracle(scenes: list, delta: float, largest: bool) -> float:
    return max(box_acc(scenes, threshold, delta, largest) for threshold in BOX_THRESHOLDS)


def test_at_the_best_thresholds() -> None:
    terms = [oracle(SCENES, delta, False) for delta in (0.3, 0.5, 0.7)]
    assert [ROW["iou30"], ROW["iou50"], ROW["iou70"]] == pytest.approx(terms)
    assert ROW["maxboxacc_v2"] == pytest.approx(np.mean(terms))
    assert ROW["maxboxacc"] == pytest.approx(oracle(SCENES, 0.5, True))
    assert ROW["maxboxacc"] == pytest.approx(box_acc(SCENES, ROW["threshold_oracle"], 0.5, True))
    assert ROW["gt_known_20"] == pytest.approx(box_acc(SCENES, 0.2, 0.5, True))
    assert (ROW["images"], ROW["masks"], ROW["test_images"], ROW["tuning_images"]) == (18, 18, 12, 6)


def test_at_thresholds_of_the_split() -> None:
    assert box_acc(SPLIT, ROW["threshold"], 0.5, True) == pytest.approx(oracle(SPLIT, 0.5, True))
    assert ROW["gt_known"] == pytest.approx(box_acc(REST, ROW["threshold"], 0.5, True))
    terms = [
        box_acc(REST, threshold, delta, False)
        for threshold, delta in zip(ROW["v2_thresholds"], (0.3, 0.5, 0.7), strict=True)
    ]
    assert ROW["boxacc_v2"] == pytest.approx(np.mean(terms))
    for name, ranks in (("top1_loc", 1), ("top5_loc", 5)):
        right = [hit(case, ROW["threshold"], 0.5, True) and case[1].rank < ranks for case in REST]
        assert ROW[name] == pytest.approx(100 * np.mean(right))
    assert ROW["top1_loc"] < ROW["top5_loc"] < ROW["gt_known"]
    ranks = np.array([image.rank for _, image in SCENES])
    assert [ROW["top1_cls"], ROW["top5_cls"]] == pytest.approx([100 * (ranks < count).mean() for count in (1, 5)])
    assert ROW["top1_loc"] + sum(ROW[f"error_{kind}"] for kind in ERROR_KINDS[1:]) == pytest.approx(100)


def masks_at(scenes: list, threshold: float) -> tuple[float, float]:
    """IoU of all pixels together, mean F."""
    pairs = [(score_map(values) >= threshold, image.mask) for values, image in scenes]
    overlap = sum((a & b).sum() for a, b in pairs) / sum((a | b).sum() for a, b in pairs)
    scores = []
    for predicted, real in pairs:
        precision, recall = (predicted & real).sum() / max(1, predicted.sum()), (predicted & real).sum() / real.sum()
        scores.append(1.3 * precision * recall / (0.3 * precision + recall) if recall else 0)
    return 100 * overlap, 100 * float(np.mean(scores))


def test_masks() -> None:
    at = [masks_at(SCENES, threshold) for threshold in MASK_THRESHOLDS]
    assert ROW["iou_oracle"] == pytest.approx(max(pair[0] for pair in at))
    assert ROW["f_beta_oracle"] == pytest.approx(max(pair[1] for pair in at), abs=1e-4)
    assert masks_at(SCENES, ROW["mask_threshold_oracle"])[0] == pytest.approx(ROW["iou_oracle"])
    assert (ROW["iou"], ROW["f_beta"]) == pytest.approx(masks_at(REST, ROW["mask_threshold"]), abs=1e-4)
    for place, name in enumerate(("iou_s", "iou_ms", "iou_ml", "iou_l")):
        some = [case for case in REST if pixel_metrics.size_class(case[1].mask) == place]
        assert ROW[name] == (pytest.approx(masks_at(some, ROW["mask_threshold"])[0]) if some else None)


def test_means_over_images() -> None:
    linear = [segmentation_metrics.linear_map(values, WINDOW) for values, _ in SCENES]
    expected = {
        "seg_map": [
            segmentation_metrics.average_precision(s, p.mask, NONE) for s, (_, p) in zip(linear, SCENES, strict=True)
        ],
        "seg_f1": [f1_score(p.mask.ravel(), (s > s.mean()).ravel()) for s, (_, p) in zip(linear, SCENES, strict=True)],
        "pointing": [p.mask.ravel()[score_map(values).argmax()] for values, p in SCENES],
        "energy": [score_map(values)[p.mask].sum() / score_map(values).sum() for values, p in SCENES],
    }
    for name, values in expected.items():
        assert ROW[name] == pytest.approx(100 * np.mean(values), abs=1e-4), name
    total = sum(pixel_metrics.score_histogram(score_map(values), p.mask, NONE) for values, p in SCENES)
    assert ROW["pxap"] == pytest.approx(pixel_metrics.pxap(total))


def test_every_score_lies_in_its_interval() -> None:
    for name in SCORES:
        if ROW[name] is None:
            assert ROW["interval"][name] is None
        else:
            low, high = ROW["interval"][name]
            assert 0 <= low <= ROW[name] + 1e-9, name
            assert ROW[name] - 1e-9 <= high <= 100 + 1e-9, name


def test_boxes_alone_have_no_pixel_scores() -> None:
    scenes = [(values, ScoredImage(p.group, p.boxes, None, NONE, p.rank, WINDOW)) for values, p in SCENES]
    row = score_method("label", tally(scenes)).columns
    boxes = ("maxboxacc", "maxboxacc_v2", "iou30", "iou50", "iou70", "gt_known", "boxacc_v2", "top1_loc", "top5_loc")
    boxes += ("top1_cls", "top5_cls", *(f"error_{kind}" for kind in ERROR_KINDS[1:]))
    assert {name for name in SCORES if row[name] is not None} == {*boxes, "gt_known_20"}
    assert [row[name] for name in boxes] == [ROW[name] for name in boxes]
    assert (row["masks"], row["mask_threshold"], row["threshold"]) == (0, None, ROW["threshold"])


def test_an_object_without_a_pixel_at_224_is_no_hit_of_the_pointing_game() -> None:
    values, image = SCENES[1]
    nothing = ScoredImage(0, image.boxes, NONE, NONE, 0, WINDOW)
    row = score_method("label", tally([*SCENES, (values, nothing)])).columns
    assert (row["pointing"], row["energy"]) == (ROW["pointing"], ROW["energy"])
    assert row["masks"] == 19
    assert row["f_beta_oracle"] < ROW["f_beta_oracle"]


def test_without_a_split_nothing_is_tuned() -> None:
    row = score_method("label", tally(REST)).columns
    assert {row.get(name) for name in ("gt_known", "boxacc_v2", "top1_loc", "iou", "f_beta", "threshold")} == {None}
    assert row["maxboxacc"] is not None


def test_images_that_are_aside_tune_and_count_for_nothing_else() -> None:
    aside = [
        (values, ScoredImage(TUNING_GROUPS.stop - 1, p.boxes, p.mask, p.ignore, p.rank, WINDOW)) for values, p in SPLIT
    ]  # fmt: skip
    row = score_method("label", tally([*REST, *aside])).columns
    assert (row["images"], row["test_images"], row["tuning_images"]) == (12, 12, 6)
    assert [row[name] for name in ("threshold", "gt_known", "iou")] == [
        ROW[name] for name in ("threshold", "gt_known", "iou")
    ]
    assert row["maxboxacc"] == pytest.approx(oracle(REST, 0.5, True))


def test_top5_of_the_predicted_class_is_not_defined() -> None:
    row = score_method("predicted", tally(SCENES)).columns
    assert row["top5_loc"] is None
    assert row["top1_loc"] == ROW["top1_loc"]


def test_trivial_predictors_are_boxes_of_the_truth_alone() -> None:
    rows = {}
    for name, boxes in TRIVIAL_BOXES.items():
        total = ScoreCounts()
        for _, image in SCENES:
            total.add(image.group, count_boxes(boxes, image))
        rows[name] = score_method("label", total, has_maps=False).columns
    whole = np.array([box_iou(np.array([[0, 0, 223, 223]]), p.boxes)[0, 0] for _, p in SCENES])
    assert rows["whole image"]["maxboxacc"] == pytest.approx(100 * (whole >= 0.5).mean())
    squares = []
    for side in range(8, 225, 8):
        first = (224 - side) // 2
        last = min(first + side, 223)
        squares.append([box_iou(np.array([[first, first, last, last]]), p.boxes)[0, 0] for _, p in SCENES])
    best = [100 * (np.array(squares) >= delta).mean(1).max() for delta in (0.3, 0.5, 0.7)]
    assert rows["centered square"]["maxboxacc_v2"] == pytest.approx(np.mean(best))
    assert rows["centered square"]["gt_known_20"] is None
    assert "threshold" not in rows["centered square"]


def test_images_without_a_label_are_misses_and_without_any_there_is_no_accuracy() -> None:
    none = [(values, replace(image, rank=None)) for values, image in SCENES]
    row = score_method("label", tally(none)).columns
    assert (row["top1_loc"], row["top5_loc"], row["interval"]["top1_loc"]) == (None, None, None)
    assert row["gt_known"] == ROW["gt_known"]
    first = [(values, replace(image, rank=0)) for values, image in SCENES]
    half = [one if place % 2 else other for place, (one, other) in enumerate(zip(first, none, strict=True))]
    assert 0 < score_method("label", tally(half)).columns["top1_loc"] < ROW["gt_known"]


def test_an_image_of_which_everything_is_ignored_divides_nothing_by_nothing() -> None:
    values, image = SCENES[1]
    counts = count_map(values, replace(image, mask=NONE, ignore=~NONE))
    assert not np.any(counts["confusion"])
    assert np.isfinite(counts["image_scores"]).all()


def test_a_map_of_ignored_pixels_alone_has_the_energy_of_a_constant() -> None:
    score, mask, ignore = (np.zeros((224, 224)) for _ in range(3))
    score[:112], ignore[:112], mask[112:168] = 1, 1, 1
    assert pixel_metrics.energy(score, mask.astype(bool), ignore.astype(bool)) == 0.5
