"""Parser of Google-style docstrings: the text, and the entries of each section."""

import inspect
import re
from typing import NamedTuple

_SECTIONS = (
    "Args", "Attributes", "Class attributes", "Options", "Presets", "Extra outputs", "Returns", "Yields", "Raises",
)  # fmt: skip
_SECTION = re.compile(rf"^({'|'.join(_SECTIONS)}):\n((?:(?: +.*)?(?:\n|\Z))*)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\*{0,2}\w[\w…, ]*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


class Docstring(NamedTuple):
    """A parsed docstring.

    Attributes:
        text: everything outside the sections.
        sections: for each section, its entries by name; the whole text under ``""`` for ``Returns`` and ``Yields``.
    """

    text: str
    sections: dict[str, dict[str, str]]

    @property
    def summary(self) -> str:
        """The first paragraph on one line."""
        return " ".join(self.text.split("\n\n")[0].split())


def parse_docstring(documented: object) -> Docstring:
    """Parse the docstring of an object; an entry ``a, b: …`` describes both ``a`` and ``b``."""
    text = inspect.cleandoc(getattr(documented, "__doc__", None) or "") + "\n"
    sections: dict[str, dict[str, str]] = {}
    for section, body in _SECTION.findall(text):
        entries = sections.setdefault(section, {})
        if section in ("Returns", "Yields"):
            entries[""] = " ".join(body.split())
            continue
        for names, description in _ENTRY.findall(body):
            for name in names.split(", "):
                entries[name] = " ".join(description.split())
    return Docstring(_SECTION.sub("", text).strip(), sections)


def option_texts(documented: type) -> dict[str, str]:
    """Return the description of each option, its own and those of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(documented.__mro__):
        texts |= parse_docstring(base).sections.get("Options", {})
    return texts
