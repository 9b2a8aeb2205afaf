"""Labels of samples: class ids or class names in ``cls`` members, or in a field of ``json`` members."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.read.sample_keys import escape_bytes
from pipeline.read.shard_reader import LABEL_EXTENSION, RawSample, SampleMember
from schemas.run import LabelForm
from schemas.samples import SampleStatus
from schemas.text import normalize_name, shorten, suggest

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_SEPARATORS = (r"\n", ",", r"\s*,\s*|\s+")
"""Between the labels of a sample; the last one splits all that can be split."""
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""Spellings of the values of a one-hot list; JSON has them as integers, as fractions, or as truth values."""
_IN_WORDS: dict[LabelForm, str] = {
    "ids": "class ids",
    "names": "class names",
    "one-hot": "a 0 or 1 for each class",
}
_SHOWN = 40
"""Characters of a label that a message shows."""


class Labels(NamedTuple):
    """What a sample says of its classes.

    Attributes:
        label: class id; None if there is no usable one, or several.
        labels: all class ids, if several are read.
        status: ``ok``, or the kind of fault.
        error: one sentence on what is wrong, or left out.
    """

    label: int | None = None
    labels: tuple[int, ...] = ()
    status: SampleStatus = SampleStatus.OK
    error: str | None = None


@dataclass(frozen=True)
class LabelRule:
    """How the labels of samples are written, and how many of them are used.

    Attributes:
        most: labels of a sample that are explained; None if a sample must have a single one.
        is_needed: a sample without a usable label is faulty.
        key: field of the ``json`` member that has the labels, or its path with dots; None is the ``cls`` member.
        form: how they are written; None is what they can be, if that is one thing.
        names: of the classes, by class id; empty if labels are no names.
    """

    most: int | None = None
    is_needed: bool = True
    key: str | None = None
    form: LabelForm | None = None
    names: tuple[str, ...] = ()

    @property
    def extensions(self) -> frozenset[str]:
        """Extensions of the members that are read for labels, beside ``cls``."""
        return frozenset({"json"} if self.key else ())

    def read(self, raw: RawSample, classes: int | None) -> Labels:
        """Return the labels of a sample. If labels are not needed, a fault leaves the status ``ok``.

        Args:
            raw: the sample.
            classes: a label must be below it; None if labels are not needed, and any number is one.
        """
        try:
            labels = self._parse(raw, classes)
        except _LabelError as error:
            labels = Labels(error.label, status=error.status, error=str(error))
        if self.is_needed and classes is not None:
            return labels
        return Labels() if labels.status == SampleStatus.MISSING_LABEL else labels._replace(status=SampleStatus.OK)

    def _parse(self, raw: RawSample, classes: int | None) -> Labels:
        where = f"the field {self.key} of the .json member" if self.key else f"the .{LABEL_EXTENSION} member"
        value, shown = _read_field(raw, self.key, where) if self.key else _read_member(raw)
        ids = self._resolve(value, classes, where, shown)
        if len(ids) == 1 and not self.most:
            return Labels(ids[0])
        if not self.most and self.is_needed and classes is not None:
            raise _LabelError(
                f"{where} has {len(ids)} labels; plan with --targets label:M for up to M labels of an image"
            )
        left_out = None
        if self.most and len(ids) > self.most:
            left_out = f"has {len(ids)} labels, and label:{self.most} explains the first {self.most}"
        return Labels(ids[0] if len(ids) == 1 else None, ids, error=left_out)

    def _resolve(self, value: Any, classes: int | None, where: str, shown: str) -> tuple[int, ...]:
        """Return the class ids that a value means.

        Raises:
            _LabelError: it means none, or may mean several things.
        """
        found = {ids: form for tokens in _tokenizations(value) for form, ids in self._readings(tokens, classes)}
        usable = [ids for ids in found if len(set(ids)) == len(ids) and _outside(ids, classes) is None]
        if not found:
            raise _LabelError(self._describe_unreadable(value, where, shown))
        if not self.most and {found[ids] for ids in usable} == {"names"}:  # which may have blanks and commas in them
            usable = [ids for ids in usable if len(ids) == 1] or usable
        if len(usable) > 1:
            raise _LabelError(f"{where} is {shown}, which may be {_describe_readings(usable, found)}")
        ids = usable[0] if usable else next(iter(found))
        if (outside := _outside(ids, classes)) is not None:
            error = f"label {outside} is outside of 0 … {(classes or 0) - 1}"
            raise _LabelError(error, SampleStatus.LABEL_OUT_OF_RANGE, outside if len(ids) == 1 else None)
        if len(set(ids)) < len(ids):
            raise _LabelError(f"{where} names a class twice: {shown}")
        if not ids:
            raise _LabelError(f"{where} has no label", SampleStatus.MISSING_LABEL)
        return ids

    def _readings(self, tokens: Sequence[str], classes: int | None) -> Iterator[tuple[LabelForm, tuple[int, ...]]]:
        """Yield the class ids that tokens mean, in each form in which they mean any."""
        if self.form in (None, "ids") and all(map(_NUMBER.fullmatch, tokens)):
            yield "ids", tuple(map(int, tokens))
        if self.form in (None, "names") and all(normalize_name(token) in self._ids for token in tokens):
            yield "names", tuple(self._ids[normalize_name(token)] for token in tokens)
        may_be_flags = self.form == "one-hot" or (self.form is None and len(tokens) > 1)
        if may_be_flags and len(tokens) == classes and all(token in _FLAGS for token in tokens):
            yield "one-hot", tuple(class_id for class_id, token in enumerate(tokens) if _FLAGS[token])

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {normalize_name(name): class_id for class_id, name in enumerate(self.names)}

    def _describe_unreadable(self, value: Any, where: str, shown: str) -> str:
        """Return what a label is not, and what to do."""
        if self.form == "one-hot":
            return f"{where} is {shown}, not a 0 or 1 for each class"
        if not self.names or self.form == "ids":
            is_word = isinstance(value, str) and value.isprintable() and any(map(str.isalpha, value))
            advice = "; plan with --classes FILE if it is a class name" if is_word and not self.names else ""
            return f"{where} is {shown}, not a number of up to 9 digits{advice}"
        tokens = max(_tokenizations(value), key=lambda tokens: sum(map(self._is_known, tokens)), default=())
        if unknown := next((token for token in tokens if not self._is_known(token)), None):
            fix = suggest(unknown, self.names) or "; correct it, or the file of --classes"
            return f"{where} has {shorten(unknown)!r}, which is no line of --classes{fix}"
        return f"{where} is {shown}, not a class name"

    def _is_known(self, token: str) -> bool:
        return normalize_name(token) in self._ids


class _LabelError(ValueError):
    """A label that cannot be used.

    Attributes:
        status: the kind of fault.
        label: the class id that it would be.
    """

    def __init__(self, text: str, status: SampleStatus = SampleStatus.BAD_LABEL, label: int | None = None) -> None:
        super().__init__(text)
        self.status, self.label = status, label


def _outside(ids: Sequence[int], classes: int | None) -> int | None:
    """Return the first class id that there is no class for; None if all are classes."""
    return None if classes is None else next((number for number in ids if not 0 <= number < classes), None)


def _describe_readings(readings: Sequence[tuple[int, ...]], forms: Mapping[tuple[int, ...], LabelForm]) -> str:
    """Return what a label may be, and what decides."""
    listed = " or ".join(f"{_IN_WORDS[forms[ids]]}, for {list(ids)}" for ids in readings)
    choices = sorted({forms[ids] for ids in readings})
    if len(choices) == 1:
        return f'{listed}; write a list in JSON, as in ["a", "b"]'
    return f"{listed}; plan with --label-form {' or '.join(choices)}"


def _tokenizations(value: Any) -> list[tuple[str, ...]]:
    """Return the words of a label in each way in which it can be split; none if it is no label at all."""
    if isinstance(value, str):
        return _split(value.strip())
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        return []
    return [tuple(item.strip() if isinstance(item, str) else json.dumps(item) for item in items)]


def _split(text: str) -> list[tuple[str, ...]]:
    if not text:
        return [()]
    ways = [(text,)]
    if text.startswith("[") and text.endswith("]"):
        try:
            return ways + _tokenizations(json.loads(text))
        except (ValueError, RecursionError):
            text = text[1:-1].strip()
    return ways + [tuple(part.strip() for part in re.split(separator, text)) for separator in _SEPARATORS]


def _read_member(raw: RawSample) -> tuple[str, str]:
    """Return the text of the ``cls`` member, and how messages show it."""
    member = raw.members.get(LABEL_EXTENSION)
    if member is None:
        in_json = "plan with --label-key FIELD if .json has it, or" if "json" in raw.members else "or plan"
        raise _LabelError(
            f"no .{LABEL_EXTENSION} member; there are: {join_names(raw)}; add one, {in_json} with --targets predicted",
            SampleStatus.MISSING_LABEL,
        )
    _check_contents(member)
    data = member.data or b""
    try:
        return data.decode("utf-8-sig").strip(), repr(data[:_SHOWN])
    except UnicodeDecodeError:
        where = f"the .{LABEL_EXTENSION} member"
        raise _LabelError(f"{where} is {data[:_SHOWN]!r}, not a number of up to 9 digits, nor text in UTF-8") from None


def _read_field(raw: RawSample, key: str, where: str) -> tuple[Any, str]:
    """Return the value of a field of the ``json`` member, and how messages show it."""
    member = raw.members.get("json")
    if member is None:
        error = f"no .json member, from whose field {key} --label-key takes the label; there are: {join_names(raw)}"
        raise _LabelError(error, SampleStatus.MISSING_LABEL)
    _check_contents(member)
    try:
        content = json.loads((member.data or b"").decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise _LabelError("the .json member is not JSON in UTF-8") from None
    value = _find(content, key)
    if value is None:
        raise _LabelError(f"{where}, from which --label-key takes the label, is not there", SampleStatus.MISSING_LABEL)
    return value, repr(value)[:_SHOWN]


def _find(content: Any, key: str) -> Any:
    """Return the field of this very name; else that at the path whose parts dots separate; None if there is neither."""
    if isinstance(content, dict) and key in content:
        return content[key]
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _check_contents(member: SampleMember) -> None:
    if member.fault is not None:
        raise _LabelError(escape_bytes(f"{member.name} {member.fault}"))
    if member.data is None:
        raise _LabelError(f"the member {escape_bytes(member.name)} of {member.size:,} bytes is too large for a label")


def join_names(raw: RawSample) -> str:
    """Return the names of the members of a sample, for a message."""
    return escape_bytes(", ".join(sorted(member.name for member in raw.members.values())))[:200]
