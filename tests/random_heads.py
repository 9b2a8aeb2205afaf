"""Random linear heads on random features, with the habits of real ones: similar classes, and some predicted often."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HeadPredictions:
    """What a head predicts of images whose class is known.

    Attributes:
        classes: number of classes.
        truth: class of each image.
        predictions: of the head.
    """

    classes: int
    truth: Ints
    predictions: Ints

    @property
    def accuracy(self) -> float:
        """Share of the predictions that are the class."""
        return float((self.truth == self.predictions).mean())


def random_head(rng: np.random.Generator, classes: int, per_class: int, noise: float) -> HeadPredictions:
    """Predictions of a random head.

    Args:
        rng: source of the random numbers.
        classes: number of classes; about eight each share most of their features.
        per_class: mean number of images of a class; classes have very different numbers.
        noise: of the images, beside features of the size 1; 1 is hard, 4 hopeless.
    """
    width = 32
    groups = rng.normal(size=(classes // 8 + 1, width))
    features = groups[rng.integers(0, len(groups), classes)] + 0.8 * rng.normal(size=(classes, width))
    truth = rng.choice(classes, classes * per_class, p=rng.dirichlet(np.full(classes, 2.0)))
    images = features[truth] + noise * rng.normal(size=(len(truth), width))
    weight = features + 0.3 * rng.normal(size=features.shape)
    bias = -(weight**2).sum(1) / 2 + rng.normal(size=classes)
    return HeadPredictions(classes, truth, np.argmax(images @ weight.T + bias, 1))
