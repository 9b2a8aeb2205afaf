"""Labels in another order than the network's are named, and right ones never are."""

import numpy as np
import pytest
from numpy.typing import NDArray
from random_heads import random_head
from support import soak_after
from timm.data.imagenet_info import ImageNetInfo

from pipeline.store import Atlas, class_order
from pipeline.store.class_order import find_label_fault
from pipeline.store.label_accuracy import measure_label_accuracy, wilson_interval

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


def test_a_network_that_predicts_one_class_for_all_is_not_called_another_order() -> None:
    """A mapping of all labels to that class would be right for every image."""
    labels = np.arange(500) % 10
    assert "50 of 500 predictions are the label, hardly more than by chance" in str(
        find_label_fault(labels, np.full(500, 3), 10)
    )


def test_a_low_accuracy_that_chance_does_not_reach_is_not_called_chance() -> None:
    rng = np.random.default_rng(5)
    labels = np.arange(4000) % 1000
    predictions = np.where(rng.random(4000) < 0.03, labels, rng.integers(0, 1000, 4000))
    assert find_label_fault(labels, predictions, 1000) is None


def test_the_development_kit_is_named_from_few_images_of_each_class() -> None:
    rng = np.random.default_rng(6)
    labels = development_kit_labels(rng, truth := np.arange(1000))
    fault = find_label_fault(labels[labels < 1000], truth[labels < 1000], 1000)
    assert fault is not None
    assert "by the order of the development kit of ILSVRC 2012 64 of 64 predictions are the label" in fault
    from_zero = find_label_fault(labels - 1, truth, 1000)
    assert from_zero is not None
    assert "development kit" in from_zero


def development_kit_labels(rng: np.random.Generator, truth: Ints) -> Ints:
    """Labels from 1 of classes in the order of the kit, as far as it is known here, and at random behind it."""
    ids = np.zeros(1000, np.int64)
    known = class_order._DEVELOPMENT_KIT
    ids[known] = np.arange(1, len(known) + 1)
    ids[ids == 0] = rng.permutation(np.arange(len(known) + 1, 1001))
    return ids[truth]


def test_the_known_part_of_the_development_kit_is_of_the_right_classes() -> None:
    """By names that any list of the kit has in these places."""
    names = list(ImageNetInfo("imagenet-1k").label_descriptions())
    first = [names[class_id].split(",")[0] for class_id in class_order._DEVELOPMENT_KIT]
    assert first[:5] == ["kit fox", "English setter", "Siberian husky", "Australian terrier", "English springer"]
    assert (first[9], first[20], first[40], first[63]) == (
        "Persian cat",
        "Scottish deerhound",
        "dalmatian",
        "Rottweiler",
    )
    assert len(set(first)) == 64


@pytest.mark.parametrize("seed", soak_after(12, range(200)))
def test_random_heads(seed: int) -> None:
    """Right labels are never called wrong, however bad the head; those of another order are called what they are."""
    rng = np.random.default_rng(seed)
    classes = (10, 20, 100, 1000)[seed % 4]
    per_class, noise = int(rng.integers(6, 20 if classes < 1000 else 8)), float(rng.uniform(0.2, 3))
    head = random_head(rng, classes, per_class, noise)
    truth, predictions = head.truth, head.predictions
    assert find_label_fault(truth, predictions, classes) is None, head.accuracy
    cycle = rng.permutation(classes)
    order = np.empty(classes, np.int64)
    order[cycle] = np.roll(cycle, 1)  # no class stays
    wrong = {"are the label -1": truth + 1, "another order of classes": order[truth]}
    if classes == 1000:
        wrong["development kit"] = development_kit_labels(rng, truth)
    for says, labels in wrong.items():
        inside = labels < classes  # the others are rows without maps
        fault = find_label_fault(labels[inside], predictions[inside], classes)
        assert says in str(fault) or head.accuracy < 0.5, (says, fault, head.accuracy)


def test_an_atlas_has_the_accuracy_of_its_tables(atlas: Atlas) -> None:
    accuracy = measure_label_accuracy(atlas)
    samples = atlas.samples_with_maps(["label", "prediction"]).to_pylist()
    assert accuracy is not None
    assert accuracy.labeled == len(samples)
    assert accuracy.top1 == sum(sample["label"] == sample["prediction"] for sample in samples)
    assert accuracy.top1 <= accuracy.top5 <= accuracy.labeled
    assert (accuracy.fault, accuracy.several) == (None, 0)
    (low1, high1), (low5, high5) = accuracy.top1_interval, accuracy.top5_interval
    assert low1 < accuracy.top1 / accuracy.labeled < high1 <= 1
    assert low5 < accuracy.top5 / accuracy.labeled <= high5 <= 1
    assert f"top-1 {100 * accuracy.top1 / 48:.1f} % ({100 * low1:.1f}–{100 * high1:.1f})" in accuracy.summary


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (7, 10), (481, 500), (1, 1)])
def test_the_interval_is_that_of_wilson(hits: int, count: int) -> None:
    """Its ends are the shares from which the observed one is 1.96 of their own standard errors away."""
    share = hits / count
    for end, side in zip(wilson_interval(hits, count), (-1, 1), strict=True):
        if abs(end - share) > 1e-12:
            error = np.sqrt(end * (1 - end) / count)
            assert (end - share) / error == pytest.approx(side * 1.959964, rel=1e-5)
        else:
            assert share in (0, 1)
