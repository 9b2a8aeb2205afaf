"""Labels as people write them: ids, names, one-hot lists, fields of JSON; two readings are refused, none is guessed."""

import json
from pathlib import Path
from typing import Any

from support import jpeg, write_tar

from pipeline.read import DecodedSample, DecoderPool, LabelRule, PreprocessConfig, iter_batches
from schemas.shard_record import ShardRecord

FRAME = PreprocessConfig(8, 8, "bicubic", "squash", 1.0, "center")
NAMES = ("cat", "dog", "red fox", "tench, Tinca tinca", "n01440764", "été", "red", "fox", "7", "lion")
"""Names of ten classes: with blanks, with a comma, a number that is not its id, and two that make up a third."""
IMAGE = jpeg(0, (8, 8))


def read(
    folder: Path, contents: dict[str, Any], rule: LabelRule, classes: int = 10, extension: str = "cls"
) -> dict[str, DecodedSample]:
    """The samples of a shard with these labels, by key."""
    members = []
    for key, content in contents.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        members += [(f"{key}.jpg", IMAGE), (f"{key}.{extension}", data)]
    path = write_tar(folder / "a.tar", members)
    shard = ShardRecord("a", str(path), len(contents), -1)
    with DecoderPool(0) as pool:
        batches = iter_batches(shard, 99, FRAME, 8, classes, pool, labels=rule)
        return {sample.key: sample for batch in batches for sample in batch.samples}


ONE: dict[str, tuple[bytes, int]] = {
    "id": (b"3", 3),
    "mark and blanks": (b"\xef\xbb\xbf 3\r\n", 3),
    "list": (b"[3]", 3),
    "one-hot": (b"0 0 0 1 0 0 0 0 0 0", 3),
    "one-hot of fractions": (b"[0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]", 3),
    "name": (b"dog\n", 1),
    "name with a mark": (b"\xef\xbb\xbfdog", 1),
    "name with a blank": (b"red fox", 2),
    "name with a comma": (b"tench, Tinca tinca", 3),
    "WordNet id": (b"n01440764", 4),
    "decomposed letters": ("e\u0301te\u0301".encode(), 5),
    "name in a list": (b'["red fox"]', 2),
}


def test_one_label_is_read_in_every_form(tmp_path: Path) -> None:
    found = read(tmp_path, {key: content for key, (content, _) in ONE.items()}, LabelRule(names=NAMES))
    assert {key: (sample.label, sample.error) for key, sample in found.items()} == {
        key: (label, None) for key, (_, label) in ONE.items()
    }


SEVERAL: dict[str, tuple[bytes, list[int]]] = {
    "names": (b"dog, cat", [1, 0]),
    "names between blanks": (b"dog n01440764", [1, 4]),
    "names between lines": (b"tench, Tinca tinca\ndog\n", [3, 1]),
    "names in a list": (b'["red", "fox"]', [6, 7]),
    "names without quotes": (b"[dog, cat]", [1, 0]),
    "ids": (b"9 1", [9, 1]),
    "truth values": (b"[true, false, false, false, false, false, false, false, false, true]", [0, 9]),
}


def test_several_labels_are_read_in_every_form(tmp_path: Path) -> None:
    found = read(tmp_path, {key: content for key, (content, _) in SEVERAL.items()}, LabelRule(most=5, names=NAMES))
    assert {key: (list(sample.labels), sample.error) for key, sample in found.items()} == {
        key: (labels, None) for key, (_, labels) in SEVERAL.items()
    }


BAD: dict[str, tuple[bytes, str, str]] = {
    "number and name": (
        b"7",
        "bad_label",
        "the .cls member is b'7', which may be class ids, for [7] or class names, for [8]; "
        "plan with --label-form ids or names",
    ),
    "one name or two": (
        b"red fox",
        "bad_label",
        "the .cls member is b'red fox', which may be class names, for [2] or class names, for [6, 7]; "
        'write a list in JSON, as in ["a", "b"]',
    ),
    "misspelt": (b"dgo", "bad_label", "the .cls member has 'dgo', which is no line of --classes; did you mean dog?"),
    "one of two": (
        b"cat, wolverine",
        "bad_label",
        "the .cls member has 'wolverine', which is no line of --classes; correct it, or the file of --classes",
    ),
    "twice": (b"cat, cat", "bad_label", "the .cls member names a class twice: b'cat, cat'"),
    "nothing": (b" \n", "missing_label", "the .cls member has no label"),
    "a fraction": (b"3.0", "bad_label", "the .cls member has '3.0', which is no line of --classes"),
    "outside": (b"10", "label_out_of_range", "label 10 is outside of 0 … 9"),
    "UTF-16": ("\ufeffdog".encode("utf-16-le"), "bad_label", "nor text in UTF-8"),
    "deep": (b"[" * 5000 + b"]" * 5000, "bad_label", "which is no line of --classes"),
}


def test_a_label_that_is_none_or_may_be_two_is_a_row_with_the_reason(tmp_path: Path) -> None:
    found = read(tmp_path, {key: content for key, (content, _, _) in BAD.items()}, LabelRule(most=5, names=NAMES))
    for key, (_, status, error) in BAD.items():
        assert found[key].status == status, key
        assert error in (found[key].error or ""), key


def test_two_values_of_two_classes_are_refused_until_the_form_is_given(tmp_path: Path) -> None:
    contents = {"first": b"[1, 0]", "second": b"0 1", "both": b"1 1", "id": b"1"}
    undecided = read(tmp_path, contents, LabelRule(most=2), classes=2)
    assert [undecided[key].status for key in contents] == ["bad_label", "bad_label", "ok", "ok"]
    assert undecided["second"].error == (
        "the .cls member is b'0 1', which may be class ids, for [0, 1] or a 0 or 1 for each class, for [1]; "
        "plan with --label-form ids or one-hot"
    )
    assert undecided["both"].labels == (0, 1)
    ids = read(tmp_path, contents, LabelRule(most=2, form="ids"), classes=2)
    assert [ids[key].labels for key in contents] == [(1, 0), (0, 1), (), (1,)]
    flags = read(tmp_path, contents, LabelRule(most=2, form="one-hot"), classes=2)
    assert [flags[key].labels for key in contents] == [(0,), (1,), (0, 1), ()]
    assert flags["id"].error == "the .cls member is b'1', not a 0 or 1 for each class"
    single = read(tmp_path, contents, LabelRule(), classes=2)
    assert [single[key].status for key in contents] == ["bad_label", "bad_label", "bad_label", "ok"]


def test_numbers_that_are_names_are_decided_by_the_form(tmp_path: Path) -> None:
    contents = {"number": b"7", "text": b'"7"', "name": b"cat"}
    names = read(tmp_path, contents, LabelRule(form="names", names=NAMES))
    assert [names[key].label for key in contents] == [8, None, 0]
    ids = read(tmp_path, contents, LabelRule(form="ids", names=NAMES))
    assert [(ids[key].label, ids[key].status) for key in contents] == [
        (7, "ok"),
        (None, "bad_label"),
        (None, "bad_label"),
    ]


def test_one_hot_lists_of_very_many_classes_are_read(tmp_path: Path) -> None:
    flags = ["0.0"] * 21_841
    flags[20_000] = "1.0"
    found = read(tmp_path, {"many": ", ".join(flags).encode()}, LabelRule(), classes=21_841)
    assert found["many"].label == 20_000


FIELDS: dict[str, tuple[Any, int | None, str]] = {
    "number": ({"label": 3}, 3, ""),
    "digits": ({"label": " 3 "}, 3, ""),
    "name": ({"label": "dog"}, 1, ""),
    "list": ({"label": ["dog"]}, 1, ""),
    "one-hot": ({"label": [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]}, 2, ""),
    "with a mark": (b'\xef\xbb\xbf{"label": 3}', 3, ""),
    "null": ({"label": None}, None, "the field label of the .json member, from which --label-key takes the label, is"),
    "another": ({"class": 3}, None, "the field label of the .json member, from which --label-key takes the label, is"),
    "object": ({"label": {"id": 3}}, None, "the field label of the .json member is {'id': 3}, not a class name"),
    "list of lists": ({"label": [[3]]}, None, "the field label of the .json member is [[3]], not a class name"),
    "fraction": ({"label": 3.0}, None, "the field label of the .json member has '3.0', which is no line of --classes"),
    "truth": ({"label": True}, None, "the field label of the .json member has 'true', which is no line of --classes"),
    "half a letter": (b'{"label": "\\ud800"}', None, "has '\\ud800', which is no line of --classes"),
    "no object": ([3], None, "is not there"),
    "no JSON": (b"{", None, "the .json member is not JSON in UTF-8"),
    "bytes": (b"\xff", None, "the .json member is not JSON in UTF-8"),
    "deep": (b'{"label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "the .json member is not JSON in UTF-8"),
}


def test_a_field_of_json_has_the_label(tmp_path: Path) -> None:
    contents = {key: content for key, (content, _, _) in FIELDS.items()}
    found = read(tmp_path, contents, LabelRule(key="label", names=NAMES), extension="json")
    for key, (_, label, error) in FIELDS.items():
        assert found[key].label == label, key
        assert error in (found[key].error or ""), key
        assert (found[key].status == "ok") == (label is not None), key
    assert found["null"].status == found["another"].status == "missing_label"


def test_a_path_with_dots_is_a_field_of_that_name_or_a_field_of_a_field(tmp_path: Path) -> None:
    contents = {
        "inner": {"object": {"class": 4}},
        "own": {"object.class": 5, "object": {"class": 4}},
        "none": {"object": 1},
    }
    found = read(tmp_path, contents, LabelRule(key="object.class"), extension="json")
    assert [found[key].label for key in contents] == [4, 5, None]
    without = read(tmp_path, {"cls": b"3"}, LabelRule(key="object.class"))
    assert without["cls"].status == "missing_label"
    assert without["cls"].error == (
        "no .json member, from whose field object.class --label-key takes the label; there are: cls.cls, cls.jpg"
    )


def test_labels_that_are_not_explained_are_read_and_cost_no_image(tmp_path: Path) -> None:
    contents = {"one": b"dog", "two": b"dog, cat", "none": b"", "bad": b"dgo", "out": b"99"}
    found = read(tmp_path, contents, LabelRule(is_needed=False, names=NAMES))
    assert {sample.status for sample in found.values()} == {"ok"}
    assert [(sample.label, sample.labels, bool(sample.error)) for sample in found.values()] == [
        (1, (), False),
        (None, (1, 0), False),
        (None, (), False),
        (None, (), True),
        (99, (), True),
    ]
