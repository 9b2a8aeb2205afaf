"""Measures ask the network what their definitions say, and nothing twice."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from some_batches import CLASS_IDS, KEYS, Linear, compute, linear_batch, make_batch
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import explain
from pipeline.metrics import explained_model
from pipeline.metrics.adcc import ADCC
from pipeline.metrics.deletion_insertion import DeletionInsertion
from pipeline.metrics.diffmask_curves import DiffMaskCurves
from pipeline.metrics.explained_model import ExplainedModel
from pipeline.metrics.masked_forward import make_baseline
from pipeline.metrics.max_sensitivity import MaxSensitivity
from pipeline.metrics.parameter_randomization import ParameterRandomization
from pipeline.metrics.perturbation_auc import PerturbationAUC
from pipeline.metrics.random_logit import sample_other_classes
from pipeline.metrics.registry import METRICS, SUITES
from pipeline.metrics.similarity import pearson
from schemas.audit_tables import MAP_STATISTICS
from schemas.errors import UsageError
from schemas.metrics import FAITHFULNESS_METRICS, SANITY_METRICS

BLIND = ("center", "edges", "uniform", "random")

OF_EACH_IMAGE = [name for name in METRICS if name != "grid_pointing"]
"""Metrics of an image by itself; mosaics are of several images."""

SHORT = {
    "max_sensitivity": MaxSensitivity(samples=2),
    "parameter_randomization": ParameterRandomization(samples=1),
}


def closed_form(values: np.ndarray, fill: np.ndarray, most: bool, numbers: Sequence[int]) -> list[float]:
    """p after so many patches have been replaced, one after the other."""
    order = sorted(range(36), key=lambda i: (-values[i] if most else values[i], i))
    found = []
    for number in numbers:
        gone = order[:number]
        found.append(0.5 + sum(fill[i] if i in gone else values[i] for i in range(36)))
    return found


PLACES = {  # how many of 36 patches are gone, and what that counts
    ("equal", 4): ([0, 9, 18, 27, 36], [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8]),
    ("equal", 36): (range(37), [1 / 72, *[1 / 36] * 35, 1 / 72]),
    ("gauss", 2): ([0, 18, 36], [1 / 6, 4 / 6, 1 / 6]),
    ("gauss", 4): ([0, 6, 18, 30, 36], [1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20]),
}


@pytest.mark.parametrize(("spacing", "steps"), PLACES)
def test_curves_of_a_linear_model_are_their_closed_form(spacing: str, steps: int) -> None:
    model, batch = linear_batch()
    explained = batch.model
    fills = {
        kind: (model.patches(make_baseline(kind, batch.images, explained.mean, explained.std, KEYS, 0)) * model.weights)
        .detach()
        .numpy()
        for kind in ("mean", "blur", "noise")
    }
    found = compute(DeletionInsertion(steps, spacing), batch) | compute(DiffMaskCurves(steps, spacing), batch)
    numbers, weights = PLACES[spacing, steps]
    for row, values in enumerate(batch.maps["own"][:, 0].reshape(3, 36)):

        def mean(kind: str, most: bool, row: int = row, values: np.ndarray = values) -> np.ndarray:
            return np.array(closed_form(values, fills[kind][row], most, numbers))

        expected = {
            "deletion": mean("mean", True) @ weights,
            "insertion": mean("blur", False) @ weights,
            "abpc": (mean("mean", False) - mean("mean", True)) @ weights,
            "noise_most": mean("noise", True) @ weights,
            "noise_least": mean("noise", False) @ weights,
            "noise_nll_most": -np.log(mean("noise", True)) @ weights,
            "noise_nll_least": -np.log(mean("noise", False)) @ weights,
        }
        for name, value in expected.items():
            assert found["own", name][row, 0] == pytest.approx(value, abs=1e-12), name


def test_no_map_beats_the_true_one_of_a_linear_model() -> None:
    _, batch = linear_batch()
    best = compute(DeletionInsertion(), batch)
    for seed in range(5):
        _, other = linear_batch(np.random.default_rng(seed).random((3, 1, 6, 6)))
        found = compute(DeletionInsertion(), other)
        assert (found["own", "deletion"] > best["own", "deletion"]).all()
        assert (found["own", "abpc"] < best["own", "abpc"]).all()


def test_a_constant_map_has_no_area_between_its_curves() -> None:
    _, batch = linear_batch(np.full((3, 1, 6, 6), 0.3))
    np.testing.assert_array_equal(compute(DeletionInsertion(), batch)["own", "abpc"], 0)


def test_a_copy_is_shown_once_whoever_asks() -> None:
    model, batch = linear_batch()
    twice = replace(batch, class_ids=np.array([[0, 1]] * 3), maps={"own": np.repeat(batch.maps["own"], 2, 1)})
    found = compute(DeletionInsertion(6, "equal"), twice)
    assert len(model.copies) == 3 * (3 * 5 + 2) + 1  # curves without ends; whole and blurred pictures, one mean colour
    shown = model.shown
    assert shown < len(model.copies) + 3 * 16  # three calls, rounded up
    np.testing.assert_allclose(found["own", "deletion"].sum(1), 1)
    compute(DeletionInsertion(3, "equal"), twice)
    assert model.shown == shown  # every second step of the same curves


def test_cost_is_what_is_asked_at_most() -> None:
    model, batch = linear_batch()
    for metric in (DeletionInsertion(5), DiffMaskCurves(5), PerturbationAUC(5)):
        model.copies.clear()
        compute(metric, replace(batch))
        assert 0 < len(model.copies) <= 3 * metric.cost(1).forwards


@pytest.mark.parametrize(("batch_size", "together"), [(6, [6, 6, 3]), (100, [15]), (2, [3] * 5)])
def test_versions_of_few_images_are_explained_together_with_the_same_maps(
    batch_size: int, together: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(explained_model._BATCH_SIZE, "cpu", batch_size)
    batch = make_batch(small_vit(), ["legrad", "gradcam", "random"])
    versions = [batch.images + 0.1 * number for number in range(5)]
    alone = [batch.model.explain(images, CLASS_IDS, KEYS) for images in versions]
    sizes, original = list[int](), ExplainedModel.explain

    def explain_counted(model: ExplainedModel, images: Tensor, *args: object) -> object:
        sizes.append(len(images))
        return original(model, images, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ExplainedModel, "explain", explain_counted)
    found = list(batch.model.explain_copies(iter(versions), CLASS_IDS, KEYS))
    assert sizes == together
    for maps, expected in zip(found, alone, strict=True):
        assert list(maps) == list(expected)
        for name, values in maps.items():
            torch.testing.assert_close(values, expected[name], rtol=1e-9, atol=1e-12)


def test_black_is_black_and_mean_is_the_mean_and_noise_is_of_its_key() -> None:
    images = images_for(small_vit())
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    of = {kind: make_baseline(kind, images, mean, std, KEYS, 0) for kind in ("black", "mean", "blur", "noise")}
    torch.testing.assert_close(of["black"] * std + mean, torch.zeros_like(images))
    assert (of["mean"] == 0).all()
    noise = of["noise"] * std + mean
    assert noise.min() >= -1e-12
    assert noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(of["noise"][1:], make_baseline("noise", images[1:], mean, std, KEYS[1:], 0))
    assert of["blur"].std() < 0.3 * images.std()
    torch.testing.assert_close(of["blur"].mean(), images.mean(), atol=0.02, rtol=0)


def test_perturbation_counts_how_long_the_label_stays_on_top() -> None:
    """The first class is on top as long as more than half of its evidence is there: all patches are alike."""

    class Evidence(Linear):
        def forward(self, images: Tensor) -> Tensor:
            there = (self.patches(images) > 0).double().mean(1)
            return torch.stack([there - 0.55, torch.zeros_like(there)], 1)

    _, batch = linear_batch(np.random.default_rng(0).random((3, 1, 6, 6)))
    explained = replace(batch.model, model=Evidence(torch.ones(36, dtype=torch.float64)))
    batch = replace(batch, model=explained, images=torch.ones_like(batch.images), labels=np.array([0, 1, -1]))
    found = compute(PerturbationAUC(8, "equal"), batch)  # 4, 7, 11, 14 of 36 gone, and on top; not 18, 22, 25, 29, 32
    for name in ("positive", "negative"):
        np.testing.assert_allclose(found["own", name][:, 0], [3.5 / 8, 4.5 / 8, np.nan])
    found = compute(PerturbationAUC(1), batch)  # 4 and 32
    np.testing.assert_allclose(found["own", "positive"][:2, 0], [0.5, 0.5])


@pytest.mark.parametrize("name", OF_EACH_IMAGE)
def test_a_measure_gives_its_figures_of_each_map_and_leaves_the_network_as_it_was(name: str) -> None:
    model = small_vit(reg_tokens=2, init_values=0.1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    metric, batch = SHORT.get(name, METRICS[name]), make_batch(model, ("legrad", "attention", "uniform"))
    found = compute(metric, batch)
    assert set(found) == {(method, figure) for method in batch.maps for figure in metric.directions}
    for values in found.values():
        assert values.shape == (3, 2)
        assert values.dtype == np.float64
    assert all(np.isfinite(values).all() for (method, _), values in found.items() if method == "legrad")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", OF_EACH_IMAGE)
def test_figures_of_an_image_do_not_depend_on_its_batch_nor_on_the_other_methods(name: str) -> None:
    metric, whole = SHORT.get(name, METRICS[name]), make_batch(small_vit(), ("legrad", "random"))
    found = compute(metric, whole)
    for row in range(3):
        few = slice(row, row + 1)
        alone = replace(
            whole,
            images=whole.images[few],
            keys=KEYS[few],
            labels=whole.labels[few],
            class_ids=whole.class_ids[few],
            maps={"legrad": whole.maps["legrad"][few]},
        )
        for (method, figure), values in compute(metric, alone).items():
            np.testing.assert_allclose(values, found[method, figure][few], atol=1e-9, err_msg=figure)


@pytest.mark.parametrize("name", OF_EACH_IMAGE)
def test_a_second_target_that_is_the_first_one_has_its_figures(name: str) -> None:
    metric = SHORT.get(name, METRICS[name])
    for values in compute(metric, make_batch(small_vit(), ("legrad",))).values():
        assert values[0, 0] == values[0, 1]


def test_no_two_measures_have_a_figure_in_common_nor_with_the_numbers_of_an_audit() -> None:
    names = [*MAP_STATISTICS, *(figure for metric in METRICS.values() for figure in metric.directions)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("kind", "figures"), [("faithfulness", FAITHFULNESS_METRICS), ("sanity", SANITY_METRICS)])
def test_the_schema_names_the_figures_of_the_measures_and_their_directions(kind: str, figures: dict) -> None:
    there = {figure: better for metric in SUITES[kind].values() for figure, better in metric.directions.items()}  # type: ignore[index]
    assert list(there.items()) == list(figures.items())


def test_adcc_is_its_definition_image_by_image() -> None:
    model = small_vit()
    batch = make_batch(model, ("legrad", "reciprocam"))
    found = compute(ADCC(), batch)
    for method, maps in batch.maps.items():
        for row, column in np.ndindex(3, 2):
            image, target = batch.images[row : row + 1], int(CLASS_IDS[row, column])
            size = torch.from_numpy(maps[row, column])[None, None]
            masked = image * nn.functional.interpolate(size, size=(48, 48), mode="bilinear")
            with torch.no_grad():
                whole, rest = (float(model(each).softmax(-1)[0, target]) for each in (image, masked))
            again = explain(model, masked, torch.tensor([[target]]), method)[method].numpy()
            r = float(pearson(again.reshape(1, -1), maps[row, column].reshape(1, -1))[0])
            expected = {
                "average_drop": max(0, whole - rest) / whole,
                "increase": float(rest > whole),
                "coherency": (1 + r) / 2,
                "complexity": maps[row, column].mean(),
            }
            parts = [expected["coherency"], 1 - expected["complexity"], 1 - expected["average_drop"]]
            expected["adcc"] = 3 / sum(1 / part for part in parts)
            for figure, value in expected.items():
                assert found[method, figure][row, column] == pytest.approx(value, abs=1e-9), figure


def test_a_map_of_the_place_alone_is_not_sensitive_and_one_of_edges_is() -> None:
    found = compute(MaxSensitivity(samples=3), make_batch(small_vit(), BLIND))
    for method in ("center", "uniform", "random"):
        assert (found[method, "sensitivity_max"] == 0).all()
    assert (found["edges", "sensitivity_max"] > 0).all()


def test_sensitivity_grows_with_draws_and_radius() -> None:
    batch = make_batch(small_vit(), ("legrad",))
    few, many, wide = (
        compute(metric, batch)["legrad", "sensitivity_max"]
        for metric in (MaxSensitivity(2), MaxSensitivity(6), MaxSensitivity(2, radius=0.2))
    )
    assert (few <= many).all()
    assert (few < wide).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DeletionInsertion(0), "deletion_insertion: steps is 0; it must be at least 1"),
        (lambda: DiffMaskCurves(0), "diffmask_curves: steps is 0"),
        (lambda: PerturbationAUC(0), "perturbation_auc: steps is 0"),
        (lambda: DeletionInsertion(4, "even"), "deletion_insertion: spacing is 'even'; it can be gauss, equal"),
        (lambda: MaxSensitivity(samples=0), "both must be above 0"),
        (lambda: MaxSensitivity(radius=0), "both must be above 0"),
        (lambda: ParameterRandomization(samples=-1), "neither can be below 0"),
        (lambda: ParameterRandomization(blocks=0), "take at least 1"),
        (lambda: sample_other_classes(CLASS_IDS, 1, KEYS, 0), "only one class"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()  # type: ignore[operator]
