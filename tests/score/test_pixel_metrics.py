"""Pixel scores, each against its formula written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score

from pipeline.image.score_map import SIDE, score_map
from pipeline.score import pixel_metrics, segmentation_metrics
from pipeline.score.pixel_metrics import BINS, MASK_THRESHOLDS

NOWHERE = np.zeros((SIDE, SIDE), bool)


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


RNG = np.random.default_rng(0)
SCORES = [score_map(RNG.random((7, 7))) for _ in range(4)]
MASKS = [disc(int(RNG.integers(60, 160)), 100, radius) for radius in (20, 45, 70, 95)]
IGNORES = [disc(20, 20, 60), NOWHERE, disc(200, 10, 30), disc(100, 100, 90)]


def counts() -> np.ndarray:
    return sum(map(pixel_metrics.score_histogram, SCORES, MASKS, IGNORES))


def reference_pxap(scores: list[np.ndarray], masks: list[np.ndarray], ignores: list[np.ndarray]) -> float:
    """The reference's own steps with numpy.histogram."""
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    inside, outside = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for score, mask, ignore in zip(scores, masks, ignores, strict=True):
        inside += np.histogram(score[mask], edges)[0]
        outside += np.histogram(score[~mask & ~ignore], edges)[0]
    hits, misses = inside[::-1].cumsum(), outside[::-1].cumsum()
    some = (hits + misses) > 0
    precision, recall = hits[some] / (hits + misses)[some], hits[some] / inside.sum()
    return float(100 * (precision[1:] * np.diff(recall)).sum() + 100 * precision[0] * recall[0])


def direct_pxap(score: np.ndarray, mask: np.ndarray) -> float:
    """The formula of the paper, threshold by threshold."""
    total, before = 0.0, 0.0
    for threshold in np.append(np.arange(0, 1, 0.001), 1.0)[::-1]:
        above = score >= threshold
        if above.any():
            recall = (above & mask).sum() / mask.sum()
            total += (above & mask).sum() / above.sum() * (recall - before)
            before = recall
    return 100 * total


def test_pxap_equals_the_reference_and_drops_what_is_to_be_ignored() -> None:
    assert pixel_metrics.pxap(counts()) == pytest.approx(reference_pxap(SCORES, MASKS, IGNORES), abs=1e-9)


@pytest.mark.parametrize("number", range(3))
def test_pxap_equals_the_formula(number: int) -> None:
    score = pixel_metrics.pxap(pixel_metrics.score_histogram(SCORES[number], MASKS[number], NOWHERE))
    assert score == pytest.approx(direct_pxap(SCORES[number], MASKS[number]), abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_pxap_of_a_constant_is_the_share_of_object_pixels(value: float) -> None:
    histogram = pixel_metrics.score_histogram(np.full((SIDE, SIDE), value), MASKS[1], IGNORES[0])
    assert pixel_metrics.pxap(histogram) == pytest.approx(
        100 * MASKS[1].sum() / (MASKS[1] | ~IGNORES[0]).sum(), abs=1e-9
    )


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_pxap_of_the_object_itself_is_100_whatever_the_ignored_pixels_score(ignored: float) -> None:
    score = np.where(IGNORES[0] & ~MASKS[0], ignored, MASKS[0].astype(float))
    assert pixel_metrics.pxap(pixel_metrics.score_histogram(score, MASKS[0], IGNORES[0])) == 100


def test_pxap_without_an_object_is_undefined() -> None:
    assert np.isnan(pixel_metrics.pxap(pixel_metrics.score_histogram(SCORES[0], NOWHERE, NOWHERE)))


@pytest.mark.parametrize("wobble", [-1, 0, 1])
def test_scores_at_an_edge_fall_into_the_bin_of_the_reference(wobble: int) -> None:
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0])
    scores = np.resize(np.clip(np.nextafter(edges[:-1], edges[:-1] + wobble), 0, 1), (SIDE, SIDE))
    histogram = pixel_metrics.score_histogram(scores, ~NOWHERE, NOWHERE)
    assert np.array_equal(histogram[0], np.histogram(scores, edges)[0])
    assert (histogram.shape, histogram[1].sum()) == ((2, BINS), 0)


@pytest.mark.parametrize("number", range(4))
def test_masks_at_every_threshold(number: int) -> None:
    score, mask, counted = SCORES[number], MASKS[number], MASKS[number] | ~IGNORES[number]
    coarse = pixel_metrics.coarsen(pixel_metrics.score_histogram(score, mask, IGNORES[number]))
    overlap, f_beta = pixel_metrics.iou_by_threshold(coarse), pixel_metrics.f_beta(coarse)
    for place in (0, 1, 30, 57, 99):
        predicted = (score >= MASK_THRESHOLDS[place]) & counted
        assert overlap[place] == pytest.approx(100 * (predicted & mask).sum() / (predicted | mask).sum())
        precision, recall = (predicted & mask).sum() / max(1, predicted.sum()), (predicted & mask).sum() / mask.sum()
        expected = 1.3 * precision * recall / (0.3 * precision + recall) if recall else 0
        assert f_beta[place] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("share", "bucket"), [(0.04, 0), (0.05, 0), (0.06, 1), (0.25, 1), (0.4, 2), (0.5, 2), (0.51, 3)]
)
def test_sizes(share: float, bucket: int) -> None:
    mask = np.arange(10_000).reshape(100, 100) < share * 10_000
    assert pixel_metrics.size_class(mask) == bucket


def test_the_pointing_game_draws_among_equal_maxima() -> None:
    score = SCORES[0] * 0.9
    inside, outside = np.argwhere(MASKS[0])[5], np.argwhere(~MASKS[0] & ~IGNORES[0])[5]
    score[tuple(inside)] = 1
    assert pixel_metrics.pointing_game(score, MASKS[0], NOWHERE) == 1
    score[tuple(outside)] = 1
    assert pixel_metrics.pointing_game(score, MASKS[0], NOWHERE) == 0.5
    assert pixel_metrics.pointing_game(np.zeros((SIDE, SIDE)), MASKS[0], NOWHERE) == MASKS[0].mean()
    assert pixel_metrics.pointing_game(np.where(IGNORES[0] & ~MASKS[0], 1.0, score * 0.5), MASKS[0], IGNORES[0]) == 0.5


def test_energy_is_the_share_of_the_map_in_the_object() -> None:
    score, mask = SCORES[2], MASKS[2]
    counted = mask | ~IGNORES[2]
    assert pixel_metrics.energy(score, mask, IGNORES[2]) == pytest.approx(score[mask].sum() / score[counted].sum())
    assert pixel_metrics.energy(np.zeros((SIDE, SIDE)), mask, NOWHERE) == pytest.approx(mask.mean())


VALUES = [RNG.random((14, 14)) for _ in range(3)]


@pytest.mark.parametrize("number", range(3))
def test_average_precision_is_that_of_both_classes_together(number: int) -> None:
    score = segmentation_metrics.linear_map(VALUES[number])
    mask, counted = MASKS[number], MASKS[number] | ~IGNORES[number]
    precision = segmentation_metrics.average_precision(score, mask, IGNORES[number])
    flat, real = score[counted], mask[counted]
    expected = average_precision_score(np.concatenate([~real, real]), np.concatenate([1 - flat, flat]))
    assert precision == pytest.approx(expected, abs=2e-5)
    steps = np.rint(flat * 65535)
    expected = average_precision_score(np.concatenate([~real, real]), np.concatenate([65535 - steps, steps]))
    assert precision == pytest.approx(expected, abs=1e-9)


def test_average_precision_of_a_constant_is_a_half_as_there() -> None:
    assert segmentation_metrics.average_precision(np.zeros((SIDE, SIDE)), MASKS[0], NOWHERE) == 0.5


def test_imagenet_segmentation_is_foreground_above_the_mean() -> None:
    total = np.zeros((2, 2), np.int64)
    right = union = shared = pixels_ = 0
    for values, mask, ignore in zip(VALUES, MASKS, IGNORES, strict=False):
        score = segmentation_metrics.linear_map(values)
        counts = segmentation_metrics.confusion(score, mask, ignore)
        total += counts
        counted = mask | ~ignore
        predicted, real = (score > score.mean())[counted], mask[counted]
        assert segmentation_metrics.f1(counts) == pytest.approx(f1_score(real, predicted))
        right, pixels_ = right + (predicted == real).sum(), pixels_ + real.size
        shared = shared + np.array([(~predicted & ~real).sum(), (predicted & real).sum()])
        union = union + np.array([(~predicted | ~real).sum(), (predicted | real).sum()])
    assert segmentation_metrics.pixel_accuracy(total.astype(float)) == pytest.approx(100 * right / pixels_)
    assert segmentation_metrics.mean_iou(total.astype(float)) == pytest.approx(100 * (shared / union).mean())


def test_their_map_is_enlarged_linearly() -> None:
    values = VALUES[0].astype(np.float64)
    expected = F.interpolate(torch.from_numpy(values)[None, None], scale_factor=16, mode="bilinear")[0, 0].numpy()
    expected = (expected - expected.min()) / np.ptp(expected)
    assert np.abs(segmentation_metrics.linear_map(values) - expected).max() < 1e-12
    assert not segmentation_metrics.linear_map(np.full((3, 3), np.nan)).any()
    assert not segmentation_metrics.linear_map(np.ones((3, 3))).any()
    assert not segmentation_metrics.linear_map(values, (0.5, 0, 1, 1))[:, :112].any()
