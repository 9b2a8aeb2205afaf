"""From a map to a mask: the enlargement, the cut, the components."""

import cv2
import numpy as np
import pytest
from skimage.filters import threshold_otsu

from pipeline.image.upsample import upsample_to_image
from pipeline.label.combine import combine_maps
from pipeline.label.mask import Heatmap, Label, make_label
from schemas.policy import LabelFilter, Policy, Postprocess, Threshold

SQUASHED = {
    "status": "ok", "label": 3, "prediction": 5, "width": 60, "height": 40,
    "scale_x": 60 / 32, "scale_y": 40 / 32, "offset_x": 0.0, "offset_y": 0.0,
    "probability": 0.8, "label_probability": 0.1,
}  # fmt: skip
FRAME = (32, 32)
BOUNDS = np.array([0.0, 1.0], np.float32)


def policy(**options) -> Policy:
    return Policy(**({"name": "p", "methods": ("legrad",), "threshold": Threshold(kind="fixed", value=0.5)} | options))


def cut(values: np.ndarray, bounds: np.ndarray, sample: dict, policy: Policy) -> Label:
    """The label of a map of one method."""
    return make_label(Heatmap(*combine_maps({"legrad": values}, {"legrad": bounds}, policy)), sample, FRAME, policy)


def test_a_squashed_map_is_resized_linearly_as_opencv_does() -> None:
    values = np.random.default_rng(0).random((4, 8)).astype(np.float32)
    expected = cv2.resize(values, (60, 40), interpolation=cv2.INTER_LINEAR)
    assert np.abs(upsample_to_image(values, SQUASHED, FRAME) - expected).max() < 1e-5


def test_a_cropped_map_lies_where_the_crop_was_and_nothing_outside() -> None:
    sample = SQUASHED | {"width": 80, "height": 40, "scale_x": 1.25, "scale_y": 1.25, "offset_x": 20.0, "offset_y": 0.0}
    values = np.ones((4, 4), np.float32)
    picture = upsample_to_image(values, sample, FRAME)
    assert picture.shape == (40, 80)
    assert (picture[:, 20:60] == 1).all()
    assert not picture[:, :20].any()
    assert not picture[:, 60:].any()


def test_one_cell_fills_the_picture() -> None:
    assert (upsample_to_image(np.full((1, 1), 0.7, np.float32), SQUASHED, FRAME) == np.float32(0.7)).all()


def two_blobs() -> np.ndarray:
    values = np.zeros((8, 8), np.float32)
    values[1:5, 1:4] = 1
    values[6, 6] = 1
    return values


def test_components_have_their_boxes_largest_first() -> None:
    label = cut(two_blobs(), BOUNDS, SQUASHED, policy())
    assert (label.status, label.class_id, label.threshold, len(label.boxes)) == ("ok", 3, 0.5, 2)
    for x0, y0, x1, y1 in label.boxes:
        part = label.mask[y0 : y1 + 1, x0 : x1 + 1]
        assert part[0].any()
        assert part[-1].any()
        assert part[:, 0].any()
        assert part[:, -1].any()
    first, second = ((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in label.boxes)
    assert first > second
    assert label.area == label.mask.mean()


def test_the_largest_component_or_those_that_are_large_enough() -> None:
    both = cut(two_blobs(), BOUNDS, SQUASHED, policy())
    largest = cut(two_blobs(), BOUNDS, SQUASHED, policy(postprocess=Postprocess(keep="largest")))
    large = cut(two_blobs(), BOUNDS, SQUASHED, policy(postprocess=Postprocess(min_area=0.05)))
    assert largest.boxes == large.boxes == both.boxes[:1]
    assert np.array_equal(largest.mask, large.mask)
    assert largest.mask.sum() < both.mask.sum()
    none = cut(two_blobs(), BOUNDS, SQUASHED, policy(postprocess=Postprocess(min_area=0.9)))
    assert (none.status, none.boxes, none.mask.any()) == ("empty", (), False)


def test_components_touch_at_corners() -> None:
    values = np.eye(8, dtype=np.float32)
    sample = SQUASHED | {"width": 8, "height": 8, "scale_x": 0.25, "scale_y": 0.25}
    assert len(cut(values, BOUNDS, sample, policy()).boxes) == 1


def test_the_cut_is_strict() -> None:
    values = np.full((4, 4), 0.5, np.float32)
    assert cut(values, BOUNDS, SQUASHED, policy()).status == "empty"


def test_a_percentile_leaves_that_share_of_the_picture() -> None:
    values = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    label = cut(values, BOUNDS, SQUASHED, policy(threshold=Threshold(kind="percentile", value=75)))
    assert label.mask.mean() == pytest.approx(0.25, abs=0.001)


def test_otsu_finds_the_threshold_that_scikit_image_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        values = np.where(two_blobs() > 0, rng.normal(0.8, 0.05, (8, 8)), rng.normal(0.2, 0.05, (8, 8)))
        values = np.clip(values, 0, 1).astype(np.float32)
        label = cut(values, BOUNDS, SQUASHED, policy(threshold=Threshold(kind="otsu")))
        grey = (upsample_to_image(values, SQUASHED, FRAME) * 255).astype(np.uint8)
        assert label.threshold == pytest.approx(threshold_otsu(grey) / 255, abs=2 / 255)


def test_max_normalisation_takes_the_positive_part_of_the_raw_map() -> None:
    raw = np.array([[-1.0, 0.0], [1.0, 4.0]])
    stored, bounds = ((raw + 1) / 5).astype(np.float16), np.array([-1, 4], np.float32)
    sample = SQUASHED | {"width": 2, "height": 2, "scale_x": 1 / 16, "scale_y": 1 / 16}
    label = cut(stored, bounds, sample, policy(normalize="max", threshold=Threshold(kind="fixed", value=0.2)))
    assert label.mask.tolist() == [[False, False], [True, True]]
    half = cut(stored, bounds, sample, policy(threshold=Threshold(kind="fixed", value=0.5)))
    assert half.mask.tolist() == [[False, False], [False, True]]


def test_the_class_is_that_of_the_target() -> None:
    assert cut(two_blobs(), BOUNDS, SQUASHED, policy(target="predicted")).class_id == 5


GROUND = {"kind": "fixed", "value": 0.2}


def test_between_two_cuts_nothing_is_said() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    label = cut(values, BOUNDS, SQUASHED, policy(background_threshold=Threshold(**GROUND)))
    picture = upsample_to_image(values, SQUASHED, FRAME)
    assert np.array_equal(label.mask, picture > 0.5)
    assert np.array_equal(label.ignore, (picture > 0.2) & (picture <= 0.5))
    assert (label.threshold, label.background, label.ignored) == (0.5, 0.2, label.ignore.mean())


def test_what_is_cleaned_away_between_two_cuts_is_ignored_and_without_them_background() -> None:
    whole = cut(two_blobs(), BOUNDS, SQUASHED, policy(background_threshold=Threshold(**GROUND)))
    banded = cut(
        two_blobs(),
        BOUNDS,
        SQUASHED,
        policy(background_threshold=Threshold(**GROUND), postprocess=Postprocess(keep="largest")),
    )
    gone = whole.mask & ~banded.mask
    assert gone.any()
    assert banded.ignore[gone].all()
    assert not cut(two_blobs(), BOUNDS, SQUASHED, policy(postprocess=Postprocess(keep="largest"))).ignore.any()


def test_a_background_cut_above_the_other_is_lowered_to_it() -> None:
    label = cut(two_blobs(), BOUNDS, SQUASHED, policy(background_threshold=Threshold(kind="percentile", value=95)))
    assert (label.threshold, label.background) == (0.5, 0.5)
    assert not label.ignore.any()


def test_what_the_network_did_not_see_is_ignored_and_moves_no_threshold() -> None:
    sample = SQUASHED | {"width": 80, "height": 40, "scale_x": 1.25, "scale_y": 1.25, "offset_x": 20.0, "offset_y": 0.0}
    values = np.full((4, 4), 0.4, np.float32)
    values[1:3, 1:3] = 1
    label = cut(values, BOUNDS, sample, policy(threshold=Threshold(kind="mean")))
    assert label.ignore[:, :20].all()
    assert label.ignore[:, 60:].all()
    assert not label.ignore[:, 20:60].any()
    assert label.threshold == pytest.approx(upsample_to_image(values, sample, FRAME)[:, 20:60].mean(), abs=1e-6)


def test_below_zero_what_the_network_did_not_see_is_no_object_either() -> None:
    sample = SQUASHED | {"width": 80, "height": 40, "scale_x": 1.25, "scale_y": 1.25, "offset_x": 20.0, "offset_y": 0.0}
    label = cut(
        two_blobs(), np.array([-2, -1], np.float32), sample, policy(normalize="raw", threshold=Threshold(kind="mean"))
    )
    assert label.threshold < 0
    assert label.mask[:, 20:60].any()
    assert not label.mask[:, :20].any()


def test_a_threshold_is_scaled() -> None:
    values = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    for kind in ("otsu", "mean"):
        plain = cut(values, BOUNDS, SQUASHED, policy(threshold=Threshold(kind=kind)))
        scaled = cut(values, BOUNDS, SQUASHED, policy(threshold=Threshold(kind=kind, scale=0.5)))
        assert scaled.threshold == pytest.approx(plain.threshold / 2)


def test_holes_are_filled_and_bays_are_not() -> None:
    values = np.zeros((8, 8), np.float32)
    values[1:6, 1:6] = 1
    values[3, 3] = 0  # a hole
    values[1, 3] = 0  # a bay
    sample = SQUASHED | {"width": 8, "height": 8, "scale_x": 0.25, "scale_y": 0.25}
    filled = cut(values, BOUNDS, sample, policy(postprocess=Postprocess(fill_holes=True)))
    expected = values > 0.5
    expected[3, 3] = True
    assert np.array_equal(filled.mask, expected)


@pytest.mark.parametrize(
    ("rules", "change", "status"),
    [
        ({}, {}, "ok"),
        ({"probability": 0.2}, {}, "low_probability"),
        ({"probability": 0.1}, {}, "ok"),
        ({"top1": True}, {}, "not_top1"),
        ({"top1": True}, {"prediction": 3}, "ok"),
        ({"area": (0.5, 1)}, {}, "too_small"),
        ({"area": (0, 0.01)}, {}, "too_large"),
    ],
)
def test_a_filter_keeps_the_row_and_leaves_the_mask_out(rules: dict, change: dict, status: str) -> None:
    label = cut(two_blobs(), BOUNDS, SQUASHED | change, policy(filter=LabelFilter(**rules)))
    assert label.status == status
    assert (label.mask is None) == (status != "ok") == (label.ignore is None)
    assert label.area > 0
    assert label.boxes
