"""Text from data in Markdown."""

import re

from markupsafe import Markup

from schemas.text import escape_control

_MARKDOWN = re.compile(r"([\\`*_\[\]|~$#!{}])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escape_markdown(value: object) -> str:
    """Escape text to show as one line of plain text in Markdown; ``Markup`` is returned unchanged."""
    if isinstance(value, Markup):
        return value
    text = escape_control(" ".join(str(value).split()))
    return _MARKDOWN.sub(r"\\\1", text.translate(_ENTITIES))
