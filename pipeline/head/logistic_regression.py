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
"""Largest entry of the gradient at which a fit ends, relative to that of the start at W = 0."""
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
        gradient: largest entry of the gradient, relative to that of the start.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    steps: int
    gradient: float

    @property
    def converged(self) -> bool:
        """Whether the fit ended at the minimum."""
        return self.gradient <= _TOLERANCE

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

    Products of matrices are in float32, their sums and the parameters in float64. The result does not depend on the
    number of cores.

    Args:
        rows: features, at least one row.
        scaling: standardization of the features, which W is for.
        l2: weight of the regularization.
        start: where to begin, such as the fit for a larger ``l2``.
        device: of the products.
    """
    mean, deviation = (torch.from_numpy(values).float().to(device) for values in (scaling.mean, scaling.deviation))
    shape, count = start.weight.shape, len(rows)

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = parameters[: start.weight.size].reshape(shape), parameters[start.weight.size :]
        w, b = (torch.from_numpy(values).float().to(device) for values in (weight, bias))

        def of_block(x: Tensor, y: Tensor) -> Tensor:
            x = x.sub_(mean).div_(deviation)
            logs = F.log_softmax(F.linear(x, w, b), 1)
            loss = -logs.gather(1, y[:, None]).double().sum()
            residual = logs.exp_()
            residual[torch.arange(len(y), device=device), y] -= 1
            return torch.cat([(residual.T @ x).double().flatten(), residual.double().sum(0), loss[None]])

        sums = (sum_blocks(rows, device, of_block) / count).cpu().numpy()
        gradient = sums[:-1]
        gradient[: weight.size] += l2 * weight.ravel()
        return float(sums[-1] + l2 / 2 * np.square(weight).sum()), gradient

    first = start_fit(rows, len(start.bias))
    scale = np.abs(objective(np.concatenate([first.weight.ravel(), first.bias]))[1]).max() or 1.0
    result: Any = minimize(
        objective,
        np.concatenate([start.weight.ravel(), start.bias]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": _HISTORY, "gtol": _TOLERANCE * scale, "ftol": 0.0},
    )
    weight, bias = result.x[: start.weight.size].reshape(shape), result.x[start.weight.size :]
    return Fit(weight, bias, int(result.nit), float(np.abs(result.jac).max() / scale))
