"""What docstrings say of fields and columns, in the forms that this house writes them."""

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from schemas.arrow import description

_SECTION = re.compile(
    r"^(Attributes|Class attributes|Options|Presets|Extra outputs):\n((?:(?: +.*)?\n)*)", re.MULTILINE
)
_ENTRY = re.compile(r"^ {4}(\w[\w…, ]*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


class Said(NamedTuple):
    """A docstring in parts.

    Attributes:
        text: what stands outside of the sections.
        of: what each section says, by the name of the section and of the entry.
    """

    text: str
    of: dict[str, dict[str, str]]


def said(about: object) -> Said:
    """The docstring of a class, with the entries of ``Attributes:`` and its like; ``a, b: …`` is said of both."""
    text = inspect.cleandoc(getattr(about, "__doc__", None) or "") + "\n"
    of: dict[str, dict[str, str]] = {}
    for section, entries in _SECTION.findall(text):
        for names, words in _ENTRY.findall(entries):
            for name in names.split(", "):
                of.setdefault(section, {})[name] = " ".join(words.split())
    return Said(_SECTION.sub("", text).strip(), of)


def columns(path: str) -> Said:
    """Return the docstring of a table and the descriptions of its columns, under the empty section of ``of``.

    Args:
        path: dotted path of an Arrow schema, or of a mapping from column to description.
    """
    module, name = path.rsplit(".", 1)
    value = getattr(importlib.import_module(module), name)
    of = dict(value) if isinstance(value, Mapping) else {field.name: description(field) for field in value}
    return Said(below(path), {"": of})


def below(path: str) -> str:
    """The string that stands below a definition, by the dotted path of what is defined."""
    module, name = path.rsplit(".", 1)
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    for line, after in pairwise(body):
        targets = line.targets if isinstance(line, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            match after:
                case ast.Expr(ast.Constant(str(text))):
                    return inspect.cleandoc(text)
    raise LookupError(f"nothing is said of {path}")
