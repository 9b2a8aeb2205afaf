"""Texts of samples: captions in ``txt`` members, and in fields of ``json`` members, as img2dataset writes them."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.read.sample_keys import escape_bytes
from pipeline.read.shard_reader import TEXT_EXTENSIONS, RawSample
from schemas.samples import SampleStatus


@dataclass(frozen=True)
class TextRule:
    """Texts that a run needs of each sample.

    Attributes:
        targets: ``text``, for the ``txt`` member, or ``text:FIELD``, for a field of the ``json`` member.
        fault: returns why a text cannot be embedded, or None.
    """

    targets: tuple[str, ...]
    fault: Callable[[str], str | None]

    @property
    def extensions(self) -> frozenset[str]:
        """Extensions of the members that have the texts."""
        return frozenset("json" if ":" in target else "txt" for target in self.targets)

    def read(self, raw: RawSample) -> tuple[tuple[str, ...], SampleStatus, str | None]:
        """Return the texts of a sample by target, its status, and what is wrong; no texts if anything is."""
        texts: list[str] = []
        for target in self.targets:
            text, status, error = _read_text(raw, target)
            if text is not None and (reason := self.fault(text)):
                status, error = SampleStatus.BAD_TEXT, f"its {target} {reason}"
            if error is not None or text is None:
                return (), status, error
            texts.append(text)
        return tuple(texts), SampleStatus.OK, None


def _read_text(raw: RawSample, target: str) -> tuple[str | None, SampleStatus, str | None]:
    _, _, field = target.partition(":")
    extension = "json" if field else "txt"
    member = raw.members.get(extension)
    if member is None:
        return None, SampleStatus.MISSING_TEXT, f"no .{extension} member, from which --targets {target} takes the text"
    if member.fault is not None:
        return None, SampleStatus.BAD_TEXT, escape_bytes(f"{member.name} {member.fault}")
    if member.data is None:
        limit = TEXT_EXTENSIONS[extension]
        return None, SampleStatus.BAD_TEXT, f"the .{extension} member has {member.size:,} bytes, more than {limit:,}"
    try:
        text = member.data.decode("utf-8-sig")
        content = json.loads(text).get(field) if field else text
        if content is not None and not isinstance(content, str):
            raise TypeError
        empty = not (content or "").strip()
        (content or "").encode()  # JSON may have half a character
    except (ValueError, RecursionError, AttributeError, TypeError):
        wanted = f"JSON with a text in the field {field}" if field else "a text in UTF-8"
        return None, SampleStatus.BAD_TEXT, f"the .{extension} member is not {wanted}"
    if empty:
        where = f"the field {field} of the .json member" if field else "the .txt member"
        return None, SampleStatus.MISSING_TEXT, f"{where} has no text"
    return (content or "").strip(), SampleStatus.OK, None
