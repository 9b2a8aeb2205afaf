"""mIoU of several classes, against numbers counted by hand and a naive confusion matrix."""

from typing import Any

import numpy as np
import pytest

from pipeline.score.class_metrics import best_threshold, class_ious, count_pixels, mean_defined, pixel_shapes
from pipeline.score.counters import ScoreCounts
from pipeline.score.pixel_metrics import MASK_THRESHOLDS
from pipeline.score.score_classes import score_pixels

SIZE = (2, 4)
"""Height and width of image, input and maps alike, so that nothing is interpolated."""
SAMPLE: dict[str, Any] = {"width": 4, "height": 2, "scale_x": 1.0, "scale_y": 1.0, "offset_x": 0.0, "offset_y": 0.0}


def total_of(*images: dict, classes: int = 2) -> ScoreCounts:
    total = ScoreCounts(shapes=pixel_shapes(classes))
    for group, counts in enumerate(images):
        total.add(group, counts)
    return total


def index_of(threshold: float) -> int:
    return int(np.flatnonzero(np.isclose(MASK_THRESHOLDS, threshold))[0])


CAT = np.array([[1.0, 0.6, 0.2, 0.0], [1.0, 0.6, 0.2, 0.0]])
DOG = np.array([[0.0, 0.3, 0.8, 1.0], [0.0, 0.3, 0.8, 1.0]])
TRUTH = np.array([[1, 1, 0, 2], [1, 0, -1, 2]])


def test_a_pixel_has_the_class_of_the_largest_map_above_the_threshold() -> None:
    """At 0.7 the columns are cat, background, dog, dog; a pixel is ignored."""
    sums = total_of(count_pixels([CAT, DOG], [1, 2], TRUTH, SAMPLE, SIZE, 2)).sums(slice(None))
    background, cat, dog = class_ious(sums, index_of(0.7))[0]
    assert background == pytest.approx(100 * 1 / 3)  # hit (1, 1); missed (0, 2); wrong (0, 1)
    assert cat == pytest.approx(100 * 2 / 3)
    assert dog == pytest.approx(100 * 2 / 3)
    lower = class_ious(sums, index_of(0.5))[0]  # the second column is cat
    assert lower.tolist() == pytest.approx([0, 100 * 3 / 4, 100 * 2 / 3])


def test_the_value_of_a_threshold_itself_is_background() -> None:
    sums = total_of(count_pixels([CAT], [1], np.ones(SIZE, int), SAMPLE, SIZE, 2)).sums(slice(None))
    assert class_ious(sums, index_of(0.0))[0, 1] == pytest.approx(100 * 6 / 8)
    assert class_ious(sums, index_of(0.99))[0, 1] == pytest.approx(100 * 2 / 8)


def test_a_map_of_a_class_that_the_truth_lacks_is_background() -> None:
    sums = total_of(count_pixels([CAT, DOG], [0, 2], TRUTH, SAMPLE, SIZE, 2)).sums(slice(None))
    _, cat, dog = class_ious(sums, index_of(0.0))[0]
    assert (cat, dog) == (0, pytest.approx(100 * 2 / 3))


def test_a_constant_map_and_no_map_are_background() -> None:
    for maps, ids in (([np.full(SIZE, 0.7)], [1]), ([np.full(SIZE, np.nan)], [1]), ([], [])):
        sums = total_of(count_pixels(maps, ids, TRUTH, SAMPLE, SIZE, 2)).sums(slice(None))
        assert class_ious(sums, 0)[0].tolist() == pytest.approx([100 * 2 / 7, 0, 0])


def test_what_the_network_did_not_see_is_background() -> None:
    seen = SAMPLE | {"offset_x": 2.0}  # its input begins at the third column
    sums = total_of(count_pixels([DOG[:, :2]], [2], np.full(SIZE, 2), seen, (2, 2), 2)).sums(slice(None))
    assert class_ious(sums, 0)[0, 2] == pytest.approx(100 * 2 / 8)


@pytest.mark.parametrize("seed", range(3))
def test_ious_are_those_of_a_confusion_matrix_over_all_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, images, index = 3, [], int(rng.integers(len(MASK_THRESHOLDS)))
    matrix = np.zeros((classes + 1, classes + 1))
    for _ in range(5):
        maps = rng.random((classes, *SIZE))
        truth = rng.integers(-1, classes + 1, SIZE)
        images.append(count_pixels(list(maps), range(1, classes + 1), truth, SAMPLE, SIZE, classes))
        scaled = np.array([(values - values.min()) / (values.max() - values.min()) for values in maps], np.float32)
        predicted = np.where(scaled.max(0) > MASK_THRESHOLDS[index], scaled.argmax(0) + 1, 0)
        for true, found in zip(truth[truth >= 0], predicted[truth >= 0], strict=True):
            matrix[true, found] += 1
    expected = 100 * np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    sums = total_of(*images, classes=classes).sums(slice(None))
    assert class_ious(sums, index)[0] == pytest.approx(expected)


def test_a_class_that_is_nowhere_is_not_in_the_mean() -> None:
    sums = total_of(count_pixels([CAT], [1], np.where(TRUTH == 2, 1, TRUTH), SAMPLE, SIZE, 2)).sums(slice(None))
    ious = class_ious(sums, index_of(0.7))
    assert np.isnan(ious[0, 2])
    assert mean_defined(ious)[0] == pytest.approx(ious[0, :2].mean())


def test_thresholds_are_tuned_on_the_split_and_the_best_one_is_an_upper_bound() -> None:
    total = ScoreCounts(shapes=pixel_shapes(2))
    total.add(100, count_pixels([CAT], [1], np.array([[1, 0, 0, 0]] * 2), SAMPLE, SIZE, 2))  # best at 0.6 and above
    total.add(0, count_pixels([CAT], [1], np.array([[1, 1, 1, 0]] * 2), SAMPLE, SIZE, 2))  # best below 0.2
    scores, ious = score_pixels(total)
    assert scores["threshold"] >= 0.6
    assert scores["miou"] == pytest.approx((100 * 1 / 3 + 100 * 1 / 3) / 2)
    assert scores["miou_oracle"] == pytest.approx(np.nanmean(ious))
    index = best_threshold(total.sums(slice(None)))
    assert index is not None
    assert scores["threshold_oracle"] == MASK_THRESHOLDS[index]
    curve = [np.nanmean(class_ious(total.sums(slice(None)), place)) for place in range(len(MASK_THRESHOLDS))]
    assert scores["miou_oracle"] == pytest.approx(max(curve))
    assert (scores["images"], scores["tuning_images"], scores["classes"]) == (2, 1, 1)
    assert best_threshold(ScoreCounts(shapes=pixel_shapes(2)).sums(slice(None))) is None
