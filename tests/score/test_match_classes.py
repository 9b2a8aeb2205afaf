"""Classes of a truth and of a network are the same by their names, or refused."""

import pytest

from pipeline.score.match_classes import match_classes
from schemas.errors import UsageError

NAMES = ["background words", "Dining Table", "tv/monitor", "tench, Tinca tinca", "/m/01yrx"]


def match(*classes: tuple[str, ...], names: list[str] = NAMES, subset: bool = False) -> dict[int, int]:
    return match_classes(classes, range(len(classes)), names, "truth", subset)


def test_names_match_without_case_spaces_and_punctuation_and_by_synonym() -> None:
    assert match(("diningtable",), ("tvmonitor",), ("Tench",)) == {0: 1, 1: 2, 2: 3}
    assert match(("tench, tinca Tinca",)) == {0: 3}


def test_the_first_name_that_the_network_has_counts() -> None:
    assert match(("/m/01yrx", "Tench")) == {0: 4}
    assert match(("/m/0bt9lr", "Tench")) == {0: 3}


def test_only_classes_that_are_used_must_be_there() -> None:
    assert match_classes([("cat",), ("tench",)], [1], NAMES, "truth", False) == {1: 3}


@pytest.mark.parametrize(
    ("classes", "names", "says"),
    [
        ([("cat",)], [], "those of the network have no names; give them with --classes FILE"),
        ([("cat",), ("tench",)], NAMES, r"lacks 1 of its classes \(cat\); .* --subset"),
        ([("missile",)], ["missile", "Missile"], r"missile may be any of the classes \[0, 1\]"),
        ([("a", "Bat"), ("b", "bat")], ["bat"], "a and b are both class bat; name classes by their ids there"),
    ],
)
def test_what_does_not_match_is_refused(classes: list, names: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        match(*classes, names=names)


def test_classes_that_only_one_side_has_are_left_out_on_request() -> None:
    lines: list[str] = []
    assert match_classes([("cat",), ("tench",)], range(2), NAMES, "truth", True, lines.append) == {1: 3}
    assert lines == ["1 classes of truth are not among those of the network and are left out"]
    with pytest.raises(UsageError, match="lacks 1 of its classes"):
        match(("cat",), subset=True)
