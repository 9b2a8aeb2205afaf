"""Escape control characters in untrusted text, and suggest close matches for misspelt names."""

import difflib
import unicodedata
from collections.abc import Iterable


def escape_control(text: str) -> str:
    """Return a text as one line of printable characters: control and formatting characters, also those that set the
    direction of writing, are written as escapes, and so are newlines.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def suggest(name: str, candidates: Iterable[str], cutoff: float = 0.65) -> str:
    """Return ``; did you mean …?`` with the closest candidates, or nothing.

    Args:
        name: the unknown name.
        candidates: known names.
        cutoff: least similarity in [0, 1], difflib's ratio.
    """
    matches = difflib.get_close_matches(name, list(candidates), 3, cutoff)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def normalize_name(name: str) -> str:
    """Return a class name as names are compared: without whitespace around it, letters composed (Unicode NFC)."""
    return unicodedata.normalize("NFC", name.strip())


def shorten(text: str) -> str:
    """Return a text for a message, cut after 80 characters."""
    return text if len(text) <= 80 else f"{text[:80]}…"


def first_line(error: Exception) -> str:
    """Return the kind of an error and the beginning of what it says."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
