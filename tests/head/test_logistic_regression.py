"""Logistic regression in blocks, against the optimum of the same problem in float64."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from some_features import overlapping, write_features

from pipeline.head.feature_table import FeatureRows
from pipeline.head.logistic_regression import Scaling, fit, start_fit

CPU = torch.device("cpu")
CLASSES, WIDTH = 5, 12


@pytest.fixture
def rows(tmp_path: Path) -> FeatureRows:
    """Four fifths of 900 rows in four files."""
    features, labels = overlapping(900, WIDTH, CLASSES)
    return write_features(tmp_path, features, labels, 4).rows(np.arange(900) % 5 != 0)


def all_features(rows: FeatureRows) -> NDArray[np.float64]:
    return torch.cat([rows.block(index)[0] for index in range(rows.block_count)]).double().numpy()


@pytest.mark.parametrize(("l2", "separation"), [(1.0, 0), (1e-2, 0), (1e-4, 0), (1e-2, 3), (1e-5, 3)])
def test_a_fit_is_the_optimum_of_the_problem(tmp_path: Path, l2: float, separation: float) -> None:
    """Loss to 1e-6 nats; weights to half a percent of the largest. Of classes that overlap, or do not."""
    features, labels = overlapping(900, WIDTH, CLASSES)
    features += separation * features.std() * np.eye(CLASSES, WIDTH)[labels]
    rows = write_features(tmp_path, features, labels, 4).rows(np.arange(900) % 5 != 0)
    x, y = all_features(rows), rows.labels
    z = (x - x.mean(0)) / x.std(0)

    def problem(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight, bias = parameters[:-CLASSES].reshape(CLASSES, WIDTH), parameters[-CLASSES:]
        logits = z @ weight.T + bias
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        residual = (np.exp(logs) - np.eye(CLASSES)[y]) / len(y)
        gradient = np.concatenate([(residual.T @ z + l2 * weight).ravel(), residual.sum(0)])
        return -logs[np.arange(len(y)), y].mean() + l2 / 2 * (weight**2).sum(), gradient

    optimum = minimize(
        problem, np.zeros(CLASSES * (WIDTH + 1)), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 10_000}
    )
    scaling = Scaling.measure(rows, CPU)
    result = fit(rows, scaling, l2, start_fit(rows, CLASSES), CPU)
    assert result.converged
    assert 0 <= problem(np.concatenate([result.weight.ravel(), result.bias]))[0] - optimum.fun <= 1e-6
    expected = optimum.x[:-CLASSES].reshape(CLASSES, WIDTH)
    assert np.abs(result.weight - expected).max() <= 5e-3 * np.abs(expected).max()
    weight, bias = result.on_features(scaling)
    logits = z @ result.weight.T + result.bias
    assert (logits.argmax(1) == y).all() == (l2 == 1e-5)
    assert np.allclose(x @ weight.double().numpy().T + bias.double().numpy(), logits, atol=1e-4)


def test_the_result_is_the_same_on_any_number_of_cores(rows: FeatureRows, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        scaling = Scaling.measure(rows, CPU)
        results.append(fit(rows, scaling, 1e-3, start_fit(rows, CLASSES), CPU).weight.tobytes())
    assert results[0] == results[1]


def test_a_constant_feature_has_no_weight(tmp_path: Path) -> None:
    features, labels = overlapping(200, 3, 2)
    features[:, 1] = 7.3
    rows = write_features(tmp_path, features, labels, 1).rows(np.ones(200, bool))
    scaling = Scaling.measure(rows, CPU)
    weight, bias = fit(rows, scaling, 1e-3, start_fit(rows, 2), CPU).on_features(scaling)
    assert weight[:, 1].abs().max() <= 1e-5
    assert weight[:, 0].abs().max() > 0.01
    assert bias.isfinite().all()


_MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from pipeline.head.feature_table import FeatureTable
from pipeline.head.logistic_regression import Scaling, fit, start_fit
torch.set_num_threads(1)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def work(table):
    rows = table.rows(np.arange(len(table)) % 4 != 0)
    scaling = Scaling.measure(rows, torch.device("cpu"))
    fit(rows, scaling, 1e3, start_fit(rows, 2), torch.device("cpu"))
files = sorted(Path(sys.argv[1]).glob("*.safetensors"))
work(FeatureTable.open(files[:4]))
before = peak()
work(FeatureTable.open(files))
print(peak() - before)
"""


def test_features_stay_in_their_files(tmp_path: Path) -> None:
    """Twenty files of 10 MB: the peak of memory is hardly more than with four of them."""
    rng = np.random.default_rng(0)
    width = 512
    features = rng.normal(size=(10_000, width))
    for number in range(20):
        write_features(tmp_path / str(number), features, rng.integers(0, 2, 10_000), 1)
        (tmp_path / str(number) / "0.safetensors").rename(tmp_path / f"{number:02d}.safetensors")
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 60  # MB; the sixteen others are 160 MB, and 320 in float32
