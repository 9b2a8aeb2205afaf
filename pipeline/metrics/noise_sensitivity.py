"""Noise sensitivity: similarity of the maps of an image with and without noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.similarity import abs_spearman
from pipeline.utils.random import rng_for
from schemas.metrics import DIRECTIONS, Directions

SIGMAS = {"noisy_5": 0.05, "noisy_10": 0.1, "noisy_20": 0.2}
"""Standard deviation of the noise, as a fraction of the range of the normalized image."""


def gaussian_noise(images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
    """Sample normal noise with σ = max x − min x of each image x: [B, 3, H, W], dtype and device of the images.

    Args:
        images: float [B, 3, H, W].
        generators: one for each image.
    """
    noise = np.stack([rng.standard_normal(images.shape[1:]) for rng in generators])
    value_range = (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    return value_range * torch.from_numpy(noise).to(images)


@dataclass(frozen=True)
class NoiseSensitivity(Metric):
    """Spearman's ρ between |map| and |map of the image with noise|, Gaussian with σ = s · (max x − min x).

    ``noisy_5``, ``noisy_10``, ``noisy_20`` – s = 0.05, 0.1, 0.2: the same noise from key and seed, scaled. Maps are
    raw, and of the same class, even if the noisy image is no longer classified so. 1 is a map that noise does not
    change; a map that does not depend on the image reaches it, too.

    Sources: noise of Smilkov et al., SmoothGrad, 2017; robustness of maps, Alvarez-Melis and Jaakkola, On the
    Robustness of Interpretability Methods, 2018.
    """

    directions: ClassVar[Directions] = DIRECTIONS["noise_sensitivity"]

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(0, (1 + len(SIGMAS)) * methods)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        model, methods = batch.model, list(batch.maps)
        generators = [rng_for("faith noise sensitivity", key, batch.seed) for key in batch.keys]
        noise = gaussian_noise(batch.images, generators)
        copies = (batch.images + sigma * noise for sigma in SIGMAS.values())
        maps = model.explain_copies(copies, batch.class_ids, batch.keys, methods)
        for name, noisy in zip(SIGMAS, maps, strict=True):
            for method in methods:
                yield MetricValue(
                    method, name, abs_spearman(batch.raw_maps[method].cpu().numpy(), noisy[method].cpu().numpy())
                )
