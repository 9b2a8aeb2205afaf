"""What is decided of signals: validity by agreement beyond chance, verdicts by advantages over controls."""

import numpy as np
import pytest

from pipeline.rank.aggregate import Bootstrap, SignalMatrix, kappa, rank_shares
from pipeline.rank.checks import check_signals
from pipeline.rank.registry import SIGNALS
from pipeline.rank.verdicts import judge
from schemas.rank import SignalScore

RANKING = {signal.name: signal for signal in SIGNALS if not signal.is_check}
ONCE = np.ones((1, 8))


@pytest.mark.parametrize(
    ("expected", "seen", "value"),
    [
        ([0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3], 1),
        ([0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0, 0, 0], 0),
        ([0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0], 0.5),
        ([0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0], -1),
        ([0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], np.nan),
        ([0, 0, 1, 1, 0, 0, 1, 1], [np.nan] * 8, np.nan),
    ],
)
def test_kappa_is_agreement_beyond_chance(expected: list[int], seen: list[float], value: float) -> None:
    found = kappa(np.array(expected), np.array(seen, float), ONCE)[0]
    assert found == pytest.approx(value, nan_ok=True)


def test_kappa_counts_only_images_that_were_tried() -> None:
    expected, seen = np.array([0, 1, 0, 1, 0, 1, 0, 1]), np.array([0, 1, 0, 1, *[np.nan] * 4])
    assert kappa(expected, seen, ONCE)[0] == 1


def matrix(class_ids: np.ndarray, seen: np.ndarray | None) -> SignalMatrix:
    values = {"legrad": np.ones(len(class_ids)), "center": np.zeros(len(class_ids))}
    return SignalMatrix(class_ids, values, {} if seen is None else {"legrad": seen, "center": class_ids.astype(float)})


def checks(labels: np.ndarray, predictions: np.ndarray, seen: np.ndarray) -> dict[str, bool]:
    class_ids = np.arange(len(labels)) % 4
    matrices = {"consensus": matrix(class_ids, None), "removal": matrix(class_ids, seen)}
    found = check_signals(RANKING, matrices, labels, predictions, Bootstrap(len(labels)))
    return {name: check.valid for name, check in found.items() if name in matrices}


RIGHT, WRONG, NOTHING = (np.arange(40) % 4).astype(float), np.zeros(40), np.full(40, np.nan)


def test_a_signal_is_valid_if_the_network_recognises_what_it_shows() -> None:
    assert checks(RIGHT, RIGHT, RIGHT) == {"consensus": True, "removal": True}
    assert checks(RIGHT, RIGHT, WRONG) == {"consensus": True, "removal": False}, (
        "the control that sees all is no method"
    )


def test_no_signal_is_valid_on_a_network_that_does_not_recognise_whole_images() -> None:
    assert checks(RIGHT, WRONG, RIGHT) == {"consensus": False, "removal": False}


def test_without_labels_consensus_is_as_valid_as_the_others() -> None:
    assert checks(NOTHING, RIGHT, RIGHT) == {"consensus": True, "removal": True}
    assert checks(NOTHING, RIGHT, WRONG) == {"consensus": False, "removal": False}


@pytest.mark.parametrize("images", [1, 2, 5])
def test_no_signal_is_valid_on_a_few_images_even_if_all_are_recognised(images: int) -> None:
    few = RIGHT[:images]
    assert checks(few, few, few) == checks(NOTHING[:images], few, few) == {"consensus": False, "removal": False}
    untried = np.concatenate([few, NOTHING[images:]])
    assert checks(RIGHT, RIGHT, untried) == {"consensus": True, "removal": False}


def score(low: float, advantage: float, high: float, images: int = 8) -> SignalScore:
    return SignalScore(
        mean=0, low=0, high=0, images=images, advantage=advantage, advantage_low=low, advantage_high=high
    )


ABOVE, UNSURE, SLIGHTLY_BELOW, BELOW = (
    score(0.1, 0.2, 0.3),
    score(-0.1, 0.1, 0.3),
    score(-0.2, 0.0, 0.2),
    score(-0.3, -0.2, -0.1),
)


@pytest.mark.parametrize(
    ("signals", "degenerate", "same", "verdict"),
    [
        ((ABOVE, ABOVE, ABOVE), 0.0, 0.0, "stands"),
        ((ABOVE, ABOVE, SLIGHTLY_BELOW), 0.0, None, "stands"),
        ((ABOVE, ABOVE, UNSURE, UNSURE), 0.0, None, "uncertain"),
        ((ABOVE, ABOVE, BELOW), 0.0, None, "uncertain"),
        ((ABOVE,), 0.0, None, "uncertain"),
        ((ABOVE, score(0.1, 0.2, 0.3, images=5)), 0.0, None, "uncertain"),
        ((score(-0.3, -0.2, -0.1, images=5),), 0.0, None, "uncertain"),
        ((UNSURE, BELOW), 0.0, None, "uncertain"),
        ((SLIGHTLY_BELOW, BELOW), 0.0, None, "fails"),
        ((BELOW,), 0.0, None, "uncertain"),
        ((BELOW, score(-0.3, -0.2, -0.1, images=5)), 0.0, None, "uncertain"),
        ((), 0.0, None, "uncertain"),
        ((ABOVE, ABOVE), 0.2, None, "uncertain"),
        ((ABOVE, ABOVE), 0.6, None, "fails"),
        ((ABOVE, ABOVE), 0.0, 0.2, "uncertain"),
        ((ABOVE, ABOVE), 0.0, 0.9, "fails"),
    ],
)
def test_a_verdict(signals: tuple[SignalScore, ...], degenerate: float, same: float | None, verdict: str) -> None:
    scores = {f"signal{number}": value for number, value in enumerate(signals)}
    assert judge(scores, dict.fromkeys(scores, "center"), degenerate, same).verdict == verdict


def test_ranks_are_shares_of_all_rows_and_a_missing_signal_does_not_count() -> None:
    class_ids = np.arange(4)
    rows = {"a": np.full(4, 3.0), "b": np.full(4, 2.0), "center": np.full(4, 1.0)}
    pointing = SignalMatrix(class_ids, {"a": rows["center"], "center": rows["a"]}, {})
    found = rank_shares({"x": SignalMatrix(class_ids, rows, {}), "y": pointing}, ["a", "b", "center"], Bootstrap(4))
    assert {name: float(values[0]) for name, values in found.items()} == {"a": 0.5, "b": 0.5, "center": 0.5}


def test_advantages_are_over_the_best_control_on_the_same_images() -> None:
    class_ids = np.arange(6)
    values = {"a": np.array([2, 2, 2, np.nan, np.nan, np.nan]), "center": np.arange(6.0), "random": np.full(6, 0.5)}
    signal = SignalMatrix(class_ids, values, {})
    found = signal.score("a", Bootstrap(6))
    assert found is not None
    assert (signal.best_control, found.images, found.mean, found.advantage) == ("center", 3, 2, 1)
    assert (
        SignalMatrix(class_ids, {"a": np.full(6, np.nan), "center": values["center"]}, {}).score("a", Bootstrap(6))
        is None
    )


def test_a_method_of_single_patches_fails() -> None:
    judgement = judge({"a": ABOVE, "b": ABOVE}, {"a": "center", "b": "center"}, 0.0, 0.0, isolated=0.51)
    assert (judgement.verdict, "51 % of its maps are a few single patches" in judgement.reason) == ("fails", True)
