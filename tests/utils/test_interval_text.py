"""Intervals can be read, also where a bound is negative."""

import pytest

from pipeline.utils.interval_text import format_interval, format_number


@pytest.mark.parametrize(
    ("low", "high", "decimals", "text"),
    [
        (66.94, 77.58, 1, "66.9–77.6"),
        (66.94, 77.58, 0, "67–78"),
        (-0.17, -0.02, 2, "−0.17 to −0.02"),
        (-0.17, 0.02, 2, "−0.17 to 0.02"),
        (-0.001, 0.02, 2, "0.00–0.02"),
    ],
)
def test_a_negative_bound_is_no_hyphen(low: float, high: float, decimals: int, text: str) -> None:
    assert format_interval(low, high, decimals) == text


def test_numbers_have_a_minus_sign() -> None:
    assert [format_number(value, 2) for value in (-0.104, 0.104, -0.004)] == ["−0.10", "0.10", "0.00"]
