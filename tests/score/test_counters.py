"""Counts add over any split of the images, and their groups give honest intervals."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import examples

from pipeline.score.aggregate import WEIGHTS, score_method
from pipeline.score.counters import (
    ALL_GROUPS,
    FIXED_POINT_SCALE,
    TESTED_GROUPS,
    TUNING_GROUPS,
    ScoreCounts,
    bootstrap_group,
    from_npz,
    to_fixed_point,
    to_npz,
    tuning_rank,
)
from pipeline.score.score_shard import ScoredImage, count_map
from pipeline.utils.bootstrap import percentile_interval
from schemas.errors import RunFailedError

RNG = np.random.default_rng(3)


def image(number: int) -> tuple[np.ndarray, ScoredImage]:
    mask = np.zeros((224, 224), bool)
    x, y, side = (int(number) for number in RNG.integers([10, 10, 20], [120, 120, 100]))
    mask[y : y + side, x : x + side] = True
    box = np.array([[x, y, x + side - 1, y + side - 1]])
    scored = ScoredImage(
        bootstrap_group(f"key{number}", number % 4 == 0), box, mask, np.zeros_like(mask), number % 7, (0, 0, 1, 1)
    )
    return RNG.random((6, 6)), scored


CASES = [image(number) for number in range(12)]
COUNTS = [(scored.group, count_map(values, scored)) for values, scored in CASES]


def tally(numbers: list[int]) -> ScoreCounts:
    total = ScoreCounts()
    for number in numbers:
        total.add(*COUNTS[number])
    return total


WHOLE = tally(list(range(12)))


def same(first: ScoreCounts, second: ScoreCounts) -> bool:
    return all(np.array_equal(first.counts[name], second.counts[name]) for name in first.counts)


@examples(20)
@given(st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=4))
def test_counts_add_over_any_split_in_any_order(numbers: list[int], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 12]
    parts = [tally(numbers[begin:end]) for begin, end in pairwise(edges)]
    assert same(reduce(ScoreCounts.__add__, parts), WHOLE)


def test_scores_and_intervals_are_the_same_for_any_split() -> None:
    parts = [tally([0, 5, 7]), tally([1, 2, 3, 4]), tally([6, 8, 9, 10, 11])]
    packed = [from_npz(to_npz({"a/b": part}), "x")["a/b"] for part in parts]
    assert score_method("label", reduce(ScoreCounts.__add__, packed)).columns == score_method("label", WHOLE).columns


def test_packed_counts_are_the_same_and_equal_ones_have_equal_bytes() -> None:
    data = to_npz({"one": WHOLE, "whole image": ScoreCounts()})
    back = from_npz(data, "x")
    assert list(back) == ["one", "whole image"]
    assert same(back["one"], WHOLE)
    assert back["one"].counts["hits"].dtype == np.int64
    assert data == to_npz({"one": WHOLE, "whole image": ScoreCounts()})


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"nothing", lambda data: to_npz({})[:5]])
def test_damaged_counts_are_named(damage) -> None:
    with pytest.raises(RunFailedError, match=r"tars/a\.npz: cannot be read"):
        from_npz(damage(to_npz({"one": WHOLE})), "tars/a.npz")


def test_groups_depend_on_the_key_alone_and_are_about_equal() -> None:
    groups = [bootstrap_group(f"n0123/{number}", False) for number in range(20_000)]
    sizes = np.bincount(groups, minlength=TESTED_GROUPS.stop)
    assert len(sizes) == TESTED_GROUPS.stop
    assert 140 < sizes.min() < sizes.max() < 260
    assert {bootstrap_group(str(number), True) for number in range(200)} == set(
        range(TUNING_GROUPS.start, ALL_GROUPS.stop)
    )
    assert tuning_rank("a") != tuning_rank("b")


def test_numbers_are_counted_exactly() -> None:
    values = RNG.random(1000)
    assert to_fixed_point(values).sum() / FIXED_POINT_SCALE == pytest.approx(values.sum(), abs=1000 / FIXED_POINT_SCALE)
    assert to_fixed_point([0, 1]).tolist() == [0, FIXED_POINT_SCALE]


@pytest.mark.parametrize("images", [150, 3000])
def test_intervals_cover_the_truth_as_often_as_they_say(images: int) -> None:
    rng = np.random.default_rng(images)
    truth, covered, trials = 0.3, 0, 300
    for trial in range(trials):
        groups = np.array([bootstrap_group(f"{trial}/{number}", False) for number in range(images)])
        hits = np.bincount(groups, rng.random(images) < truth, TUNING_GROUPS.stop).astype(np.int64)
        counts = ScoreCounts({"images": np.bincount(groups, minlength=TUNING_GROUPS.stop), "hits": hits}).sums(
            ALL_GROUPS, WEIGHTS
        )
        low, high = percentile_interval(counts["hits"] / counts["images"])
        covered += low <= truth <= high
    assert 0.90 <= covered / trials <= 0.985
