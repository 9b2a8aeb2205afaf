"""Target kinds: how they are written, what they give, and whose names classes have."""

import pytest

from schemas.base import Record
from schemas.errors import UsageError
from schemas.targets import (
    Target,
    TargetKind,
    find_class,
    in_words,
    most_labels,
    resolve_kinds,
    split_kinds,
    target_names,
)

NAMES = ("tench, Tinca tinca", "crane", "tabby, tabby cat", "missile", "crane", "Egyptian cat", "7")


class Kinds(Record):
    kinds: tuple[TargetKind, ...] = ()
    target: Target = "label"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("label,predicted", ["label", "predicted"]),
        ("label, top:3", ["label", "top:3"]),
        ("class:tabby,5", ["class:tabby,5"]),
        ("predicted,class:Egyptian cat,label", ["predicted", "class:Egyptian cat,label"]),
        ("label,class:2,", ["label", "class:2"]),
        ("subclass:3", ["subclass:3"]),
        ("", []),
    ],
)
def test_class_takes_the_rest_of_a_text(text: str, kinds: list[str]) -> None:
    assert split_kinds(text) == kinds


def test_kinds_give_targets_in_their_order() -> None:
    assert target_names(["predicted", "top:3", "class:2,5", "label:2", "text:caption"]) == (
        "predicted", "top:1", "top:2", "top:3", "class:2", "class:5", "label:1", "label:2", "text:caption",
    )  # fmt: skip
    assert [most_labels(kinds) for kinds in (["predicted"], ["label", "top:2"], ["label:4"])] == [0, 1, 4]


@pytest.mark.parametrize(
    "kind",
    [
        "top",
        "top:0",
        "top:03",
        "top:1000",
        "top:-1",
        "class:",
        "class:a,,b",
        "label:0",
        "text:a b",
        "labels",
        "",
        "top:3\n",
    ],
)
def test_what_is_no_target_kind_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="there is no target kind"):
        Kinds.read({"kinds": [kind]}, "a spec")


def test_a_target_is_one() -> None:
    assert Kinds.read({"target": "top:3"}, "a policy").target == "top:3"
    with pytest.raises(UsageError, match="are several targets; name one"):
        Kinds.read({"target": "class:2,3"}, "a policy")


@pytest.mark.parametrize(
    ("text", "class_id"),
    [("TABBY", 2), ("Egyptian Cat", 5), ("tinca tinca", 0), ("tench, tinca tinca", 0), ("3", 3), ("0", 0)],
)
def test_a_class_has_its_id_its_name_and_its_synonyms(text: str, class_id: int) -> None:
    assert find_class(text, NAMES, 7) == class_id


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("crane", NAMES, r"class 'crane': may be 1 \(crane\), 4 \(crane\); name one by its id"),
        ("taby", NAMES, "there is no class of this name; did you mean tabby"),
        ("7", NAMES, "classes 0 … 6"),
        ("6", (*NAMES[:5], "6", "7"), r"may be 5 \(6\), 6 \(7\)"),
        ("tabby", (), "the classes of this network have no names; give ids, 0 … 6"),
        ("٣", NAMES, "there is no class of this name"),
    ],
)
def test_a_class_that_is_not_one_is_refused(text: str, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_class(text, names, 7)


def test_kinds_are_stored_with_class_ids() -> None:
    assert resolve_kinds(["label", "class:tabby, 5"], NAMES, 7) == ("label", "class:2,5")
    with pytest.raises(UsageError, match="class:2 is named twice"):
        resolve_kinds(["class:tabby,2"], NAMES, 7)
    with pytest.raises(UsageError, match="top:8: the network has 7 classes; name at most top:7"):
        resolve_kinds(["top:8"], NAMES, 7)


def test_targets_in_words() -> None:
    targets = (
        "label",
        "predicted",
        "top:1",
        "top:2",
        "top:3",
        "top:11",
        "top:22",
        "class:7",
        "label:2",
        "text",
        "text:alt",
    )
    assert [in_words(target) for target in targets] == [
        "label", "prediction", "1st prediction", "2nd prediction", "3rd prediction", "11th prediction",
        "22nd prediction", "class 7", "2nd label", "text", "text in alt",
    ]  # fmt: skip
    assert in_words("class:7", "turtle") == "class turtle"
