"""Prototypes: the mean direction of the features of a few images of each class (Snell et al., NeurIPS 2017)."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from pipeline.head.block_sums import sum_blocks
from pipeline.head.feature_table import FeatureRows

LEAST_SCALE, LARGEST_SCALE = 10.0, 1000.0
"""Range of scales: below, a head file is taken for one that stores the logarithm of its scale."""


def class_means(rows: FeatureRows, classes: int, device: torch.device) -> Tensor:
    """Compute the unit vector of the mean of the unit features of each class, float64 [C, in].

    Args:
        rows: features and labels; each class has a row.
        classes: C.
        device: of the computation.
    """

    def of_block(features: Tensor, labels: Tensor) -> Tensor:
        sums = features.new_zeros(classes, features.shape[1], dtype=torch.float64)
        return sums.index_add_(0, labels, F.normalize(features.double(), dim=1))

    return F.normalize(sum_blocks(rows, device, of_block), dim=1).cpu()


def choose_scale(prototypes: Tensor, rows: FeatureRows, device: torch.device) -> float:
    """Find the scale a of the softmax of a · cosine with the least mean negative log-likelihood, which is convex in a.

    Args:
        prototypes: unit rows [C, in].
        rows: features and labels to choose it by.
        device: of the computation.
    """
    weight = prototypes.float().to(device)

    def loss(log_scale: float) -> float:
        scale = float(np.exp(log_scale))

        def of_block(features: Tensor, labels: Tensor) -> Tensor:
            logits = scale * F.linear(F.normalize(features, dim=1), weight)
            return F.cross_entropy(logits.double(), labels, reduction="sum")

        return float(sum_blocks(rows, device, of_block)) / len(rows)

    bounds = (np.log(LEAST_SCALE), np.log(LARGEST_SCALE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x))
