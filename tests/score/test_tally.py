"""Counts add over any split of the pictures, and their groups give honest intervals."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.score.aggregate import WEIGHTS, interval, row
from pipeline.score.counters import ALL, FIXED, REST, TUNING, Tally, fixed, group_of, order, pack, unpack
from pipeline.score.score_shard import Picture, of_map
from schemas.errors import RunFailedError

RNG = np.random.default_rng(3)


def picture(number: int) -> tuple[np.ndarray, Picture]:
    mask = np.zeros((224, 224), bool)
    x, y, side = (int(each) for each in RNG.integers([10, 10, 20], [120, 120, 100]))
    mask[y : y + side, x : x + side] = True
    box = np.array([[x, y, x + side - 1, y + side - 1]])
    known = Picture(group_of(f"key{number}", number % 4 == 0), box, mask, np.zeros_like(mask), number % 7, (0, 0, 1, 1))
    return RNG.random((6, 6)), known


CASES = [picture(number) for number in range(12)]
COUNTS = [(each.group, of_map(values, each)) for values, each in CASES]


def tally(numbers: list[int]) -> Tally:
    total = Tally()
    for number in numbers:
        total.add(*COUNTS[number])
    return total


WHOLE = tally(list(range(12)))


def same(first: Tally, second: Tally) -> bool:
    return all(np.array_equal(first.counts[name], second.counts[name]) for name in first.counts)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=4))
def test_counts_add_over_any_split_in_any_order(numbers: list[int], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 12]
    parts = [tally(numbers[begin:end]) for begin, end in pairwise(edges)]
    assert same(reduce(Tally.__add__, parts), WHOLE)


def test_scores_and_intervals_are_the_same_for_any_split() -> None:
    parts = [tally([0, 5, 7]), tally([1, 2, 3, 4]), tally([6, 8, 9, 10, 11])]
    packed = [unpack(pack({"a/b": each}), "x")["a/b"] for each in parts]
    assert row("a", "label", reduce(Tally.__add__, packed)) == row("a", "label", WHOLE)


def test_packed_counts_are_the_same_and_equal_ones_have_equal_bytes() -> None:
    data = pack({"one": WHOLE, "whole image": Tally()})
    back = unpack(data, "x")
    assert list(back) == ["one", "whole image"]
    assert same(back["one"], WHOLE)
    assert back["one"].counts["hits"].dtype == np.int64
    assert data == pack({"one": WHOLE, "whole image": Tally()})


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"nothing", lambda data: pack({})[:5]])
def test_damaged_counts_are_named(damage) -> None:
    with pytest.raises(RunFailedError, match=r"tars/a\.npz: cannot be read"):
        unpack(damage(pack({"one": WHOLE})), "tars/a.npz")


def test_groups_depend_on_the_key_alone_and_are_about_equal() -> None:
    groups = [group_of(f"n0123/{number}", False) for number in range(20_000)]
    sizes = np.bincount(groups, minlength=REST.stop)
    assert len(sizes) == REST.stop
    assert 140 < sizes.min() < sizes.max() < 260
    assert {group_of(str(number), True) for number in range(200)} == set(range(TUNING.start, ALL.stop))
    assert order("a") != order("b")


def test_numbers_are_counted_exactly() -> None:
    values = RNG.random(1000)
    assert fixed(values).sum() / FIXED == pytest.approx(values.sum(), abs=1000 / FIXED)
    assert fixed([0, 1]).tolist() == [0, FIXED]


@pytest.mark.parametrize("images", [150, 3000])
def test_intervals_cover_the_truth_as_often_as_they_say(images: int) -> None:
    rng = np.random.default_rng(images)
    truth, covered, trials = 0.3, 0, 300
    for trial in range(trials):
        groups = np.array([group_of(f"{trial}/{number}", False) for number in range(images)])
        hits = np.bincount(groups, rng.random(images) < truth, TUNING.stop).astype(np.int64)
        counts = Tally({"images": np.bincount(groups, minlength=TUNING.stop), "hits": hits}).sums(ALL, WEIGHTS)
        low, high = interval(counts["hits"] / counts["images"])
        covered += low <= truth <= high
    assert 0.90 <= covered / trials <= 0.985
