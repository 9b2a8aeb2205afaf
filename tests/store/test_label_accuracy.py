"""Labels in another order than the network's are named, and right ones never are."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.store import Atlas
from pipeline.store.label_accuracy import find_label_fault, measure_label_accuracy

Ints = NDArray[np.int64]


def predicted(rng: np.random.Generator, labels: Ints, classes: int, accuracy: float) -> Ints:
    """Predictions of a network of an accuracy, with habits: each class has others that it is mostly confused with."""
    confused = rng.integers(0, classes, (classes, 2))
    wrong = confused[labels, rng.integers(0, 2, len(labels))]
    return np.where(rng.random(len(labels)) < accuracy, labels, wrong)


def drawn(rng: np.random.Generator, classes: int, count: int) -> Ints:
    """Labels of unbalanced classes."""
    return rng.choice(classes, count, p=rng.dirichlet(np.full(classes, 0.5)))


@pytest.mark.parametrize("classes", [2, 10, 200, 1000])
def test_right_labels_are_never_called_wrong(classes: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count, accuracy = int(rng.integers(1, 3000)), float(rng.uniform(0.7 if classes == 2 else 0.35, 1))
        labels = drawn(rng, classes, count)
        assert find_label_fault(labels, predicted(rng, labels, classes, accuracy), classes) is None, (count, accuracy)


@pytest.mark.parametrize(("classes", "count"), [(10, 40), (200, 300), (1000, 500)])
def test_labels_from_one_are_a_shift(classes: int, count: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        truth = rng.integers(0, classes, count)
        fault = find_label_fault((truth + 1) % classes, predicted(rng, truth, classes, 0.7), classes)
        assert fault is not None
        assert "predictions are the label -1" in fault


@pytest.mark.parametrize(("classes", "count"), [(10, 100), (200, 2000), (1000, 10_000)])
def test_another_order_of_classes_is_named(classes: int, count: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        truth = rng.integers(0, classes, count)
        order = np.roll(cycle := rng.permutation(classes), 1)[np.argsort(cycle)]  # no class stays
        fault = find_label_fault(order[truth], predicted(rng, truth, classes, 0.7), classes)
        assert fault is not None
        assert "another order of classes explains" in fault


def test_few_images_of_another_order_are_named() -> None:
    """As from a folder of photos: 30 images of 10 classes in alphabetical order, none right."""
    order = np.array([3, 0, 8, 6, 1, 9, 2, 5, 7, 4])
    truth = np.arange(30) % 10
    fault = find_label_fault(order[truth], truth, 10)
    assert fault is not None
    assert "another order of classes" in fault


@pytest.mark.parametrize(("classes", "count"), [(10, 3000), (1000, 200), (2, 20_000)])
def test_predictions_of_chance_are_named(classes: int, count: int) -> None:
    rng = np.random.default_rng(3)
    labels, noise = np.arange(count) % classes, rng.integers(0, classes, count)
    assert "hardly more than by chance" in str(find_label_fault(labels, noise, classes))


def test_an_atlas_has_the_accuracy_of_its_tables(atlas: Atlas) -> None:
    accuracy = measure_label_accuracy(atlas)
    samples = atlas.samples_with_maps(["label", "prediction"]).to_pylist()
    assert accuracy is not None
    assert accuracy.labeled == len(samples)
    assert accuracy.top1 == sum(sample["label"] == sample["prediction"] for sample in samples)
    assert accuracy.top1 <= accuracy.top5 <= accuracy.labeled
    assert accuracy.fault is None
