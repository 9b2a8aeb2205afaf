"""Text from data in LaTeX."""

import re
import unicodedata

from schemas.text import escape_control

_BETWEEN_HYPHENS = "\0"
"""Two hyphens would be a dash."""
_SPECIAL = {
    **{char: f"\\{char}" for char in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "{''}",
    "[": "{[}",  # after the end of a row it would be an argument, and so would be an asterisk
    "*": "{*}",
    _BETWEEN_HYPHENS: "{}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "∩": r"$\cap$",
}
_LETTERS = {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
_ACCENTS = {
    **dict(zip("\u0300\u0301\u0302\u0303\u0304\u0307\u0308", "`'^~=.\"", strict=True)),
    **dict(zip("\u0306\u030a\u030b\u030c\u0327", "urHvc", strict=True)),
}


def escape_latex(text: str) -> str:
    """Escape text to show as one line of plain text in LaTeX, with any engine and without packages.

    Accents become their commands. A character that the standard fonts lack is written as ``U+`` and its number.
    """
    line = unicodedata.normalize("NFC", escape_control(" ".join(text.split())))
    return "".join(map(_escape, re.sub("-(?=-)", f"-{_BETWEEN_HYPHENS}", line)))


def _escape(char: str) -> str:
    if char in _SPECIAL:
        return _SPECIAL[char]
    if char.isascii():
        return char
    if char in _LETTERS:
        return f"\\{_LETTERS[char]}{{}}"
    base, accents = (decomposed := unicodedata.normalize("NFD", char))[0], decomposed[1:]
    if base.isascii() and base.isalpha() and accents in _ACCENTS:
        dotless = "\\" if base in "ij" else ""
        return f"\\{_ACCENTS[accents]}{{{dotless}{base}}}"
    return f"U+{ord(char):04X}"
