"""Labels of samples: class ids in ``cls`` members."""

import re
from typing import NamedTuple

from pipeline.read.sample_keys import escape_bytes
from pipeline.read.shard_reader import LABEL_EXTENSION, RawSample, SampleMember
from schemas.samples import SampleStatus

_NUMBER = re.compile(rb"[+-]?[0-9]{1,9}")
_SEPARATOR = re.compile(rb"\s*,\s*|\s+")


class Labels(NamedTuple):
    """What a ``cls`` member says.

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


def parse_labels(raw: RawSample, classes: int | None, most: int | None) -> Labels:
    """Parse the labels of a sample. If labels are not needed, a fault leaves the status ``ok``.

    Several labels are numbers between commas or spaces, in brackets or not, or a 0 or 1 for each class (one-hot).

    Args:
        raw: the sample.
        classes: a label must be below it; None if labels are not needed.
        most: labels that are explained; None if a sample must have a single one.
    """
    member = raw.members.get(LABEL_EXTENSION)
    if member is None:
        error = f"no .{LABEL_EXTENSION} member; there are: {join_names(raw)}; add one, or plan with --targets predicted"
        return Labels() if classes is None else Labels(status=SampleStatus.MISSING_LABEL, error=error)
    found = _parse_several(member, classes, most) if most and classes else _parse_one(member, classes)
    return found if classes is not None else found._replace(status=SampleStatus.OK)


def _parse_one(member: SampleMember, classes: int | None) -> Labels:
    text = (member.data or b"").strip()
    if member.fault is not None:
        return Labels(status=SampleStatus.BAD_LABEL, error=escape_bytes(f"{member.name} {member.fault}"))
    if not _NUMBER.fullmatch(text):
        error = f"the .{LABEL_EXTENSION} member is {_describe(member)}, not a number of up to 9 digits"
        if len(_split(text)) > 1 and all(map(_NUMBER.fullmatch, _split(text))):
            error += "; plan with --targets label:M for up to M labels of an image"
        return Labels(status=SampleStatus.BAD_LABEL, error=error)
    label = int(text)
    if classes is not None and not 0 <= label < classes:
        error = f"label {label} is outside of 0 … {classes - 1}"
        return Labels(label, status=SampleStatus.LABEL_OUT_OF_RANGE, error=error)
    return Labels(label)


def _parse_several(member: SampleMember, classes: int, most: int) -> Labels:
    def fault(reason: str) -> Labels:
        return Labels(status=SampleStatus.BAD_LABEL, error=reason)

    if member.fault is not None:
        return fault(escape_bytes(f"{member.name} {member.fault}"))
    parts = _split((member.data or b"").strip())
    if member.data is None or not all(map(_NUMBER.fullmatch, parts)):
        return fault(f"the .{LABEL_EXTENSION} member is {_describe(member)}, not a list of class ids")
    numbers = tuple(map(int, parts))
    if len(numbers) == classes > 1 and set(numbers) <= {0, 1}:  # as class ids, more than two would repeat one
        if len(set(numbers)) == classes:
            return fault(f"{list(numbers)} may be class ids, or 0 or 1 for each class; give one id, or 1, 1 for both")
        numbers = tuple(class_id for class_id, is_present in enumerate(numbers) if is_present)
    if not numbers:
        error = f"the .{LABEL_EXTENSION} member has no label"
        return Labels(status=SampleStatus.MISSING_LABEL, error=error)
    if outside := [number for number in numbers if not 0 <= number < classes]:
        error = f"label {outside[0]} is outside of 0 … {classes - 1}"
        return Labels(status=SampleStatus.LABEL_OUT_OF_RANGE, error=error)
    if len(set(numbers)) < len(numbers):
        return fault(f"the .{LABEL_EXTENSION} member names a class twice: {_describe(member)}")
    left_out = f"has {len(numbers)} labels, and label:{most} explains the first {most}" if len(numbers) > most else None
    return Labels(numbers[0] if len(numbers) == 1 else None, numbers, error=left_out)


def _split(text: bytes) -> list[bytes]:
    if text.startswith(b"[") and text.endswith(b"]"):
        text = text[1:-1].strip()
    return _SEPARATOR.split(text) if text else []


def _describe(member: SampleMember) -> str:
    return f"of {member.size:,} bytes" if member.data is None else repr(member.data[:40])


def join_names(raw: RawSample) -> str:
    """Return the names of the members of a sample, for a message."""
    return escape_bytes(", ".join(sorted(member.name for member in raw.members.values())))[:200]
