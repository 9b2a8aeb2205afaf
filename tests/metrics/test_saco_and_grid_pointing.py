"""SaCo and the grid pointing game: closed forms, reference values, and what makes them undefined."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_models import GOLDEN, golden_model
from some_batches import compute, linear_batch
from support import images_for, small_vit

from pipeline.explain import describe, explain
from pipeline.explain.registry import methods
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.grid_pointing import GridPointing, cell_shares, group_by_class, make_mosaic
from pipeline.metrics.metric import MetricBatch
from pipeline.metrics.saco import SaCo, patch_groups, saco
from schemas.errors import UsageError


def golden_batch(case: str) -> MetricBatch:
    """Images of a golden network with the raw maps of two methods."""
    data = np.load(GOLDEN / "new" / f"{case}.npz")
    model, images = golden_model(case).double(), torch.tensor(data["x"]).double()
    maps = explain(model, images, torch.tensor(data["targets"]), ["gradcam", "grad_input"])
    half = torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    explained = ExplainedModel(model, describe(model), half, half, {}, 0)
    values = {name: value.numpy() for name, value in maps.items()}
    return MetricBatch(explained, images, ("a", "b", "c"), data["targets"][:, 0], data["targets"], values)


@pytest.mark.parametrize("case", ["A", "E"])
def test_values_are_the_reference_values(case: str) -> None:
    data, batch = np.load(GOLDEN / "new" / f"{case}.npz"), golden_batch(case)
    found = compute(SaCo(groups=6), batch)
    for method, maps in batch.maps.items():
        np.testing.assert_allclose(found[method, "saco"], data[f"saco_{method}"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(cell_shares(maps, 2), data[f"gridpg_{method}"], rtol=0, atol=1e-9)


def test_saco_by_hand() -> None:
    relevance = np.array([5.0, 3.0, 1.0])
    assert saco(relevance, np.array([0.3, 0.2, 0.1])) == 1
    assert saco(relevance, np.array([0.1, 0.2, 0.3])) == -1
    assert saco(relevance, np.array([0.2, 0.3, 0.1])) == (-2 + 4 + 2) / 8
    assert saco(relevance, np.array([0.2, 0.2, 0.2])) == 1, "equal drops are in order"
    assert np.isnan(saco(np.ones(3), np.array([0.3, 0.2, 0.1])))


def test_groups_are_equal_the_first_larger_and_ties_by_index() -> None:
    maps = np.array([[0.5, 0.1, 0.9, 0.5], [0.2, 0.5, 0.0, 0.3]])
    groups = patch_groups(maps, 3)
    assert [np.flatnonzero(group).tolist() for group in groups] == [[0, 2, 3], [4, 5, 7], [1, 6]]
    assert (groups.sum(0) == 1).all()


def test_the_true_map_of_a_linear_model_has_saco_1_and_its_negative_minus_1() -> None:
    """What a group adds to the probability is what it loses without it, but for the fill, which is 0 here."""
    model, batch = linear_batch()
    images = batch.images - batch.images.mean((2, 3), keepdim=True)
    own = (model.patches(images) * model.weights).detach().numpy().reshape(3, 1, 6, 6)
    maps = {"own": own, "scaled": 3 * own + 1, "negative": -own, "constant": np.full_like(own, 0.3)}
    found = compute(SaCo(groups=6), replace(batch, images=images, maps=maps))
    np.testing.assert_array_equal(found["own", "saco"], 1)
    np.testing.assert_array_equal(found["scaled", "saco"], 1)
    np.testing.assert_array_equal(found["negative", "saco"], -1)
    assert np.isnan(found["constant", "saco"]).all()


def test_saco_of_random_maps_is_0_in_the_mean() -> None:
    rng = np.random.default_rng(0)
    relevance = -np.sort(-rng.random((4000, 10)))
    assert abs(saco(relevance, rng.random((4000, 10))).mean()) < 0.02


def test_shares_by_hand() -> None:
    maps = np.array([[1.0, -4.0, 3.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])  # middle row and column belong to both
    np.testing.assert_allclose(cell_shares(maps, 2), np.array([1.5, 3.5, 0.5, 2.5]) / 8)
    np.testing.assert_allclose(cell_shares(np.ones((5, 7)), 3), np.full(9, 1 / 9))
    np.testing.assert_array_equal(cell_shares(-maps.clip(0), 2), 0)
    shares = cell_shares(np.random.default_rng(0).random((4, 6, 5)), 2)
    np.testing.assert_allclose(shares.sum(-1), 1)


def test_a_mosaic_has_the_mean_of_each_image_in_its_cell() -> None:
    images = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    mosaic = make_mosaic(images, 2)
    assert mosaic.shape == images.shape[1:]
    for place, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        cell = mosaic[:, 3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
        assert torch.allclose(cell, images[place].reshape(3, 3, 2, 4, 2).mean((2, 4)))


def test_groups_have_different_classes_and_no_image_twice() -> None:
    assert group_by_class([1, 1, 2, 3, 1, 2, 4, 3, 4], 3) == [[0, 2, 3], [1, 5, 6], [4, 7, 8]]
    assert group_by_class([1, 1, 2, 3, 1, 2], 3) == [[0, 2, 3]]
    assert group_by_class([1, 1, 1, 1], 2) == []


def test_the_mean_of_a_map_of_the_image_is_a_quarter_and_what_is_not_seen_is_undefined() -> None:
    model, half = small_vit(), torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    model.head.weight.data[:] = 0
    chosen = methods.resolve(["attention", "gradcam", "uniform"])
    explained = ExplainedModel(model, describe(model), half, half, {method.name: method for method in chosen}, 0)
    class_ids = np.array([[0], [1], [2], [3]])
    maps = {method.name: np.zeros((4, 1, 6, 6)) for method in chosen}
    batch = MetricBatch(explained, images_for(model, 4), ("a", "b", "c", "d"), class_ids[:, 0], class_ids, maps)
    model.head.bias.data[:] = torch.tensor([5.0] * 4 + [-5.0] * 6)
    found = compute(GridPointing(), batch)
    assert found["attention", "grid_pointing"].std() > 0
    for method in ("attention", "uniform"):
        np.testing.assert_allclose(found[method, "grid_pointing"].mean(), 0.25)
    np.testing.assert_array_equal(found["gradcam", "grid_pointing"], 0)  # without gradient nothing is positive
    model.head.bias.data[3] = -9
    assert np.isnan(compute(GridPointing(), batch)["attention", "grid_pointing"]).all()
    model.head.bias.data[3] = 5
    same = replace(batch, class_ids=np.array([[0], [1], [2], [2]]))
    assert np.isnan(compute(GridPointing(), same)["attention", "grid_pointing"]).all()


def test_a_map_of_the_class_is_explained_on_its_own_mosaic() -> None:
    """The value of an image is the share, in its cell, of the map of its class for the mosaic it is in."""
    model, half = small_vit(), torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    method = methods.parse("legrad")
    explained = ExplainedModel(model, describe(model), half, half, {"legrad": method}, 0)
    images, class_ids = images_for(model, 5), np.array([[0], [0], [1], [2], [3]])
    model.head.bias.data[:4] += 50  # every mosaic is seen
    maps_of_atlas = {"legrad": np.zeros((5, 1, 6, 6))}
    batch = MetricBatch(explained, images, tuple("abcde"), class_ids[:, 0], class_ids, maps_of_atlas)
    found = compute(GridPointing(), batch)["legrad", "grid_pointing"][:, 0]
    mosaic = make_mosaic(images[[0, 2, 3, 4]], 2)
    maps = explain(model, mosaic[None], torch.arange(4)[None], "legrad")["legrad"][0].numpy()
    quarters = [maps[0, :3, :3], maps[1, :3, 3:], maps[2, 3:, :3], maps[3, 3:, 3:]]
    expected = [quarter.sum() / whole.sum() for quarter, whole in zip(quarters, maps, strict=True)]
    np.testing.assert_allclose(found[[0, 2, 3, 4]], expected, rtol=1e-12)
    assert np.isnan(found[1])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="saco: groups is 1; it must be at least 2"):
        SaCo(groups=1)
    with pytest.raises(UsageError, match="grid_pointing: side is 1; it must be at least 2"):
        GridPointing(side=1)
