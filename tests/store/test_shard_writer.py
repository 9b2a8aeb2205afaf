"""Raw maps to what is stored of them."""

import numpy as np
import pytest

from pipeline.store.shard_writer import minmax_scale
from schemas.layout import Flag


def test_normalising_keeps_maps_within_the_unit_interval_and_reversible() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-20, 1e-3, 1.0, 1e12):
        raw = rng.normal(size=(2, 5, 5)) * scale
        scaled, bounds, flags = minmax_scale(raw)
        assert not flags.any()
        assert scaled.min() == 0
        assert scaled.max() == 1
        back = bounds[:, :1, None] + (bounds[:, 1:, None] - bounds[:, :1, None]) * scaled
        assert np.abs(back - raw).max() < 1e-3 * np.ptp(raw)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_map_that_says_nothing_is_zero_and_flagged(poison: float) -> None:
    raw = np.ones((3, 3, 3))
    raw[1, 2, 2] = poison
    raw[2, 0, 0] = 2
    scaled, bounds, flags = minmax_scale(raw)
    assert flags.tolist() == [Flag.CONSTANT, Flag.NOT_FINITE, Flag.OK]
    assert not scaled[:2].any()
    assert bounds.tolist() == [[1, 1], [0, 0], [1, 2]]
