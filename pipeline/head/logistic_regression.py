"""Multinomial logistic regression on features that need not fit into memory."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from pipeline.head.block_sums import sum_blocks
from pipeline.head.feature_table import FeatureRows

_TOLERANCE = 1e-4
"""Largest entry of the gradient at the end of a fit, relative to that at W = 0."""
_TOLERANCE_OF_W = 1e-2
"""The same relative to l2 · W, which cancels the gradient of the cross-entropy at the minimum; bounds W's error."""
_STEPS = 1000
_HISTORY = 10
"""Steps that L-BFGS remembers."""


@dataclass(frozen=True)
class Scaling:
    """Standardization of features to mean 0 and variance 1.

    Attributes:
        mean: float64 [in].
        deviation: float64 [in]; 1 for a feature that is constant.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def measure(cls, rows: FeatureRows, device: torch.device) -> Self:
        """Measure mean and standard deviation of rows."""
        mean = sum_blocks(rows, device, lambda x, _: x.double().sum(0)) / len(rows)
        squares = sum_blocks(rows, device, lambda x, _: (x.double() - mean).square().sum(0)) / len(rows)
        deviation = squares.sqrt().cpu().numpy()
        return cls(mean.cpu().numpy(), np.where(deviation > 1e-6 * (1 + mean.abs().cpu().numpy()), deviation, 1.0))


@dataclass(frozen=True)
class Fit:
    """Minimum of a regularized problem, on standardized features.

    Attributes:
        weight: float64 [C, in].
        bias: float64 [C].
        steps: of L-BFGS.
        gradient: largest entry of the gradient in units of the tolerance; at most 1 where the fit ended at the minimum.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    steps: int
    gradient: float

    @property
    def converged(self) -> bool:
        """Whether the fit ended at the minimum."""
        return self.gradient <= 1

    def on_features(self, scaling: Scaling) -> tuple[Tensor, Tensor]:
        """Return weight and bias, float32, for features that are not standardized."""
        weight = self.weight / scaling.deviation
        bias = self.bias - weight @ scaling.mean
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def start_fit(rows: FeatureRows, classes: int) -> Fit:
    """Return the fit that knows the frequency of each class, and no feature; a class without rows counts half a row."""
    counts = np.maximum(np.bincount(rows.labels, minlength=classes), 0.5)
    return Fit(np.zeros((classes, rows.width)), np.log(counts / counts.sum()), 0, np.inf)


def fit(rows: FeatureRows, scaling: Scaling, l2: float, start: Fit, device: torch.device) -> Fit:
    """Minimize mean cross-entropy + l2/2 · ‖W‖² over W and b, by L-BFGS from a start; b is not regularized.

    In float64. The result does not depend on the number of cores.

    Args:
        rows: features, at least one row.
        scaling: standardization of the features, which W is for.
        l2: weight of the regularization.
        start: where to begin, such as the fit for a larger ``l2``.
        device: of the computation.
    """
    mean, deviation = (torch.from_numpy(values).to(device) for values in (scaling.mean, scaling.deviation))
    shape, size, count = start.weight.shape, start.weight.size, len(rows)
    gradient = np.zeros(size + len(start.bias))  # of the last call, which a step of L-BFGS ends with

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = parameters[:size].reshape(shape)
        w, b = (torch.from_numpy(values).to(device) for values in (weight, parameters[size:]))

        def of_block(features: Tensor, labels: Tensor) -> Tensor:
            x = features.double().sub_(mean).div_(deviation)
            logs = F.log_softmax(F.linear(x, w, b), 1)
            loss = F.nll_loss(logs, labels, reduction="sum")
            residual = logs.exp_()
            residual.scatter_(1, labels[:, None], 0.0)  # 1 − p would lose the digits of a probability p near 1
            residual.scatter_(1, labels[:, None], -residual.sum(1, keepdim=True))
            return torch.cat([(residual.T @ x).flatten(), residual.sum(0), loss[None]])

        sums = (sum_blocks(rows, device, of_block) / count).cpu().numpy()
        gradient[:] = sums[:-1]
        gradient[:size] += l2 * weight.ravel()
        return float(sums[-1] + l2 / 2 * np.square(weight).sum()), gradient.copy()

    def excess(parameters: NDArray[np.float64]) -> float:
        """Return the largest entry of the last gradient in units of the tolerance."""
        allowed = min(_TOLERANCE * scale, _TOLERANCE_OF_W * l2 * float(np.abs(parameters[:size]).max()))
        return float(np.abs(gradient).max() / max(allowed, np.finfo(float).tiny))

    def stop_at_minimum(parameters: NDArray[np.float64]) -> None:
        if excess(parameters) <= 1:
            raise StopIteration

    first = start_fit(rows, len(start.bias))
    scale = np.abs(objective(np.concatenate([first.weight.ravel(), first.bias]))[1]).max()
    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": _HISTORY, "gtol": 0.0, "ftol": 0.0}
    initial = np.concatenate([start.weight.ravel(), start.bias])
    result: Any = minimize(objective, initial, jac=True, method="L-BFGS-B", callback=stop_at_minimum, options=options)
    objective(result.x)
    return Fit(result.x[:size].reshape(shape), result.x[size:], int(result.nit), excess(result.x))
