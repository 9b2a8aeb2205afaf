"""Signals are their formulas: on networks whose answers are known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from some_batches import KEYS, Linear, linear_batch, make_batch
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import describe
from pipeline.explain.registry import methods
from pipeline.metrics.deletion_insertion import DeletionInsertion
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.metric import MetricBatch
from pipeline.rank.registry import SIGNALS
from pipeline.rank.signal import NONE_SEEN, NOT_TRIED, Signal, SignalValue
from pipeline.rank.signals.class_difference import ClassDifference
from pipeline.rank.signals.consensus import Consensus
from pipeline.rank.signals.crop import Crop
from pipeline.rank.signals.exchange import Exchange
from pipeline.rank.signals.grid_pointing import Pointing
from pipeline.rank.signals.map_checks import Contrast, Spread
from pipeline.rank.signals.removal import Removal


def compute(signal: Signal, batch: MetricBatch) -> dict[str, SignalValue]:
    return {value.method: value for value in signal.compute(batch)}


def two_class_batch() -> tuple[Linear, MetricBatch]:
    """Of the linear network: images of class 0 and 1 by turns, each with the map of its class and its negative."""
    model, batch = linear_batch()
    class_ids = np.array([[0], [1], [0]])
    sign = np.where(class_ids == 0, 1, -1)[..., None, None]
    return model, replace(
        batch, class_ids=class_ids, maps={"own": batch.maps["own"] * sign, "against": -batch.maps["own"] * sign}
    )


def test_removal_is_abpc() -> None:
    _, batch = linear_batch()
    (expected,) = (value.values for value in DeletionInsertion().compute(batch) if value.metric == "abpc")
    found = compute(Removal(), batch)["own"]
    np.testing.assert_array_equal(found.values, expected[:, 0])
    assert found.seen is not None
    assert found.seen.tolist() == [0, 0, 0]


def test_exchange_is_what_a_quarter_of_the_patches_takes_along() -> None:
    model, batch = two_class_batch()
    found = compute(Exchange(), batch)["own"]
    parts = (model.patches(batch.images) * model.weights).detach().numpy()
    for image, other in ((0, 1), (1, 2), (2, 1)):
        top = np.argsort(-batch.maps["own"][image, 0].ravel())[:9]
        rest = np.setdiff1d(np.arange(36), top)
        first = 0.5 + parts[image][top].sum() + parts[other][rest].sum()
        second = 0.5 + parts[other][top].sum() + parts[image][rest].sum()
        expected = first - second if batch.class_ids[image, 0] == 0 else second - first
        assert found.values[image] == pytest.approx(expected, abs=1e-12)


def test_exchange_needs_an_image_of_another_class() -> None:
    _, batch = linear_batch()
    found = compute(Exchange(), batch)["own"]
    assert np.isnan(found.values).all()
    assert found.seen is not None
    assert (found.seen == NOT_TRIED).all()


class Brightness(nn.Module):
    """Two classes; the probability of the first rises with the mean of the whole image."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3)) * 20
        return torch.stack([mean, -mean], 1)


def brightness_batch(maps: dict[str, np.ndarray]) -> MetricBatch:
    vit = small_vit()
    half = torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    patches = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = patches.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(3, 3, 48, 48)
    ids = np.array([[0], [1], [0]])
    own = patches.numpy() * np.where(ids == 0, 1, -1)[..., None, None]
    return MetricBatch(
        ExplainedModel(Brightness(), describe(vit), half, half, {}, 0),
        images,
        KEYS,
        ids[:, 0],
        ids,
        {"own": own} | maps,
    )


def test_crop_is_one_for_a_map_of_what_the_network_sees_and_its_negative_minus_one() -> None:
    own = brightness_batch({}).maps["own"]
    found = compute(Crop(), brightness_batch({"against": -own, "flat": np.ones_like(own)}))
    assert (found["own"].values > 0.95).all(), "enlarging weights the border of a crop a little more"
    np.testing.assert_allclose(found["against"].values, -found["own"].values, atol=1e-12)
    assert found["flat"].values.tolist() == [0, 0, 0]


def test_crop_asks_for_the_class_of_the_window_that_the_network_is_surest_of() -> None:
    batch = brightness_batch({})
    found = compute(Crop(), batch)["own"].seen
    assert found is not None
    assert found.tolist() == [0, 0, 0], "all windows are bright, whatever class is explained"


def test_consensus_is_with_methods_of_other_names_and_not_with_controls() -> None:
    names = ("attention", "reciprocam", "reciprocam:kernel=single", "center")
    batch = make_batch(small_vit(), names)
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 3, 2, 6, 6))
    maps = {"attention": first, "reciprocam": first, "reciprocam_single": second, "center": second}
    found = compute(Consensus(), replace(batch, maps=maps))
    flat = {name: found[name].values for name in maps}
    spearman = np.array([np.corrcoef(_ranks(first[image, 0]), _ranks(second[image, 0]))[0, 1] for image in range(3)])
    np.testing.assert_allclose(flat["reciprocam"], 1)
    np.testing.assert_allclose(flat["reciprocam_single"], spearman, err_msg="with attention alone")
    both = np.sqrt((1 + spearman) / 2)  # correlation of a with a + b, of equal variance
    np.testing.assert_allclose(flat["attention"], both)
    np.testing.assert_allclose(flat["center"], np.array([_with_families(first, second, image) for image in range(3)]))


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values.ravel())).astype(float)


def _with_families(first: np.ndarray, second: np.ndarray, image: int) -> float:
    """A control against attention and the mean of the two kernels, each with the same weight."""
    a, b = _ranks(first[image, 0]), _ranks(second[image, 0])
    return float(np.corrcoef(b, a + (a + b) / 2)[0, 1])


def test_a_mosaic_that_is_not_seen_counts_against_the_signal_and_not_against_the_method() -> None:
    class_ids = np.array([[1], [2], [3], [4]])
    model = small_vit()
    batch = _four(model, ("legrad", "attention", "center"), class_ids)
    found = compute(Pointing(), batch)
    assert set(found) == {"legrad", "center"}, "maps that do not depend on the class are not judged"
    seen = found["legrad"].seen
    assert seen is not None
    defined = np.isfinite(found["center"].values)
    assert np.array_equal(seen, np.where(defined, class_ids[:, 0], NONE_SEEN))


def test_images_that_are_left_over_are_not_tried() -> None:
    found = compute(Pointing(), _four(small_vit(), ("legrad",), np.array([[1], [1], [1], [1]])))["legrad"]
    assert found.seen is not None
    assert (found.seen == NOT_TRIED).all()


def _four(model: nn.Module, names: Sequence[str], class_ids: np.ndarray) -> MetricBatch:
    half = torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    by_name = {method.name: method for method in methods.resolve(names)}
    explained = ExplainedModel(model, describe(model), half, half, by_name, 0)
    maps = dict.fromkeys(by_name, np.random.default_rng(0).random((4, 1, 6, 6)))
    return MetricBatch(explained, images_for(model, 4), ("a", "b", "c", "d"), class_ids[:, 0], class_ids, maps)


def test_class_difference_tells_maps_of_a_class_from_maps_of_the_image() -> None:
    model = small_vit()
    batch = make_batch(model, ("legrad", "attention"), np.array([[1], [2], [3]]))
    found = compute(ClassDifference(), batch)
    assert set(found) == {"legrad"}
    assert found["legrad"].values.tolist() == [1, 1, 1]
    for parameter in (model.head.weight, model.head.bias):  # now all classes are one
        parameter.data = parameter.data[:1].repeat_interleave(10, 0)
    alike = make_batch(model, ("gradcam",), np.array([[1], [2], [3]]))
    assert compute(ClassDifference(), alike)["gradcam"].values.tolist() == [0, 0, 0]


def test_contrast_finds_constant_maps() -> None:
    _, batch = linear_batch()
    maps = batch.maps["own"].copy()
    maps[1] = 0
    assert compute(Contrast(), replace(batch, maps={"own": maps}))["own"].values.tolist() == [1, 0, 1]


def test_spread_finds_maps_of_single_patches() -> None:
    _, batch = linear_batch()
    maps = np.zeros((3, 1, 8, 8))
    maps[0, 0, 2, 5] = 1
    maps[1, 0, 2:4, 5] = 1
    found = compute(Spread(), replace(batch, maps={"own": maps}))["own"]
    assert found.values.tolist() == [0, 1, 1], "a constant map shows no patches"


def test_names_are_unique() -> None:
    assert len({signal.name for signal in SIGNALS}) == len(SIGNALS)
