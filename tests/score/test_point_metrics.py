"""p-mIoU of points, against numbers counted by hand."""

import numpy as np
import pytest

from pipeline.score.class_metrics import mean_defined
from pipeline.score.counters import ScoreCounts
from pipeline.score.point_metrics import class_ious, count_points, pair_miou, point_shapes
from pipeline.score.score_classes import score_points

LEFT = np.array([[1.0, 0.0]])
"""A map that is above 0.5 in the left half of the image."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
Point = tuple[int, float, bool]


def counts_of(*points: Point, classes: int = 3, maps: dict[int, np.ndarray] | None = None, window=WHOLE) -> dict:
    """Counts of an image with points of class, x and answer."""
    class_ids, x, is_yes = (np.array(column) for column in zip(*points, strict=True))
    of_classes = dict.fromkeys(set(class_ids[is_yes].tolist()), LEFT) if maps is None else maps
    places = np.stack([x, np.full(len(x), 0.5)], 1)
    return count_points(of_classes, class_ids, places, is_yes, window, classes)


def total_of(*images: dict) -> ScoreCounts:
    total = ScoreCounts(shapes=point_shapes(3))
    for group, counts in enumerate(images):
        total.add(group, counts)
    return total


def test_points_are_counted_by_answer_and_side() -> None:
    counts = counts_of(
        (1, 0.1, True), (1, 0.2, True), (1, 0.9, True), (1, 0.3, False), (1, 0.8, False), (1, 0.7, False)
    )
    assert counts["tp"].tolist() == [0, 2, 0]
    assert counts["fn"].tolist() == [0, 1, 0]
    assert counts["fp"].tolist() == [0, 1, 0]
    sums = total_of(counts).sums(slice(None))
    assert class_ious(sums)[0, 1] == pytest.approx(100 * 2 / 4)
    assert pair_miou(sums)[0] == pytest.approx(100 * (2 / 4 + 2 / 4) / 2, abs=1e-4)


def test_a_no_point_counts_only_where_its_class_is_in_the_image() -> None:
    """Of class 2 there is no yes point here, so its maps and points say nothing."""
    counts = counts_of((0, 0.1, True), (2, 0.1, False))
    assert counts["fp"].tolist() == [0, 0, 0]
    assert counts["pairs"] == 1
    ious = class_ious(total_of(counts).sums(slice(None)))[0]
    assert ious[0] == 100
    assert np.isnan(ious[1:]).all()


def test_points_of_a_class_are_summed_over_images_before_the_mean_over_classes() -> None:
    images = [
        counts_of((0, 0.1, True), (0, 0.2, True), (1, 0.3, True)),
        counts_of((0, 0.9, True), (0, 0.4, False)),
    ]
    scores, ious = score_points(total_of(*images))
    assert ious[:2].tolist() == [50, 100]  # 2 / (2 + 1 + 1), 1 / 1
    assert scores["p_miou"] == pytest.approx(75)
    # (1 + 0) / 2 twice, as there is no point of the background; and 0
    assert scores["p_miou_pairs"] == pytest.approx(100 * (0.5 + 0.5 + 0) / 3, abs=1e-4)
    assert (scores["images"], scores["classes"], scores["threshold"]) == (2, 2, 0.5)
    low, high = scores["interval"]["p_miou"]
    assert low <= 75 <= high


def test_points_that_the_network_did_not_see_are_left_out_and_counted() -> None:
    counts = counts_of((0, 0.1, True), (0, 0.45, True), (0, 0.95, False), window=(0.3, 0.0, 0.7, 1.0))
    assert (counts["tp"][0], counts["fn"][0], counts["fp"][0], counts["outside"]) == (1, 0, 0, 2)


def test_a_value_of_a_half_is_background_and_a_constant_map_finds_nothing() -> None:
    three = np.array([[0.0, 0.5, 1.0]])
    assert counts_of((0, 0.5, True), maps={0: np.zeros((1, 2))})["fn"][0] == 1
    assert counts_of((0, 0.45, True), maps={0: three})["fn"][0] == 1
    assert counts_of((0, 0.55, True), maps={0: three})["tp"][0] == 1


def test_the_border_of_the_image_is_a_pixel() -> None:
    assert counts_of((0, 0.0, True), (0, 1.0, False))["tp"][0] == 1
    assert counts_of((0, 0.0, True), (0, 1.0, False))["fp"][0] == 0


def test_a_mean_of_nothing_is_undefined() -> None:
    assert np.isnan(mean_defined(np.full((1, 3), np.nan))).all()
    assert mean_defined(np.array([[np.nan, 1.0, 3.0]])).tolist() == [2.0]
