"""Text of strangers, fit for a terminal, and what they may have meant by it."""

import difflib
from collections.abc import Iterable


def escape_control(text: str) -> str:
    """A text whose control and formatting characters, but for newlines, are written as escapes."""
    return "".join(each if each.isprintable() or each == "\n" else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def suggest(name: str, there: Iterable[str], closeness: float = 0.65) -> str:
    """``; did you mean …?`` where some that are there are as close by difflib's ratio, in [0, 1]; else nothing."""
    near = difflib.get_close_matches(name, list(there), 3, closeness)
    return f"; did you mean {' or '.join(near)}?" if near else ""
