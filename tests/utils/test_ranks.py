"""Ranks are those of SciPy."""

import numpy as np
import pytest
from scipy.stats import rankdata

from pipeline.utils.ranks import mean_ranks


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4, 49), (0, 5)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_ranks_with_ties_are_those_of_scipy(shape: tuple[int, ...], dtype: type) -> None:
    values = np.random.default_rng(0).integers(-4, 5, shape).astype(dtype)
    assert np.array_equal(mean_ranks(values), rankdata(values, axis=-1))


def test_ranks_beside_a_nan_are_nan_and_others_are_not() -> None:
    values = np.array([[3.0, np.nan, 1.0], [2.0, 2.0, np.inf]])
    assert np.array_equal(mean_ranks(values), [[np.nan] * 3, [1.5, 1.5, 3.0]], equal_nan=True)
