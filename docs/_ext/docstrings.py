"""What docstrings say of fields and columns, in the forms that this house writes them."""

import ast
import importlib
import inspect
import re
from itertools import pairwise
from typing import NamedTuple

_SECTION = re.compile(
    r"^(Attributes|Class attributes|Options|Presets|Extra outputs):\n((?:(?: +.*)?\n)*)", re.MULTILINE
)
_ENTRY = re.compile(r"^ {4}(\w[\w…, ]*): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_HEAD = re.compile(r"((?:``\w+``(?:, | … )?)+) – ")
_BULLET = re.compile(r"^- (.*(?:\n {2}.*)*)", re.MULTILINE)


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
    """The string below a table in a module, by its dotted path: "- ``a``, ``b`` – …" is said of both.

    In ``of`` columns stand under the empty section. "``a`` … ``b``" is said of all that the table has between the two.
    """
    table, text = _names_in(path), below(path)
    of: dict[str, str] = {}
    for bullet in _BULLET.findall(text):
        _, *rest = _HEAD.split(" ".join(bullet.split()))
        for head, words in zip(rest[::2], rest[1::2], strict=True):
            for name in _names(head, table):
                of[name] = words.strip()
    return Said(_BULLET.sub("", text).strip().removesuffix("Columns:"), {"": of})


def _names(head: str, table: list[str]) -> list[str]:
    found: list[str] = []
    for part in head.split(", "):
        ends = re.findall(r"\w+", part)
        between = table[table.index(ends[0]) : table.index(ends[-1]) + 1] if len(ends) > 1 else ends
        found += between
    return found


def _names_in(path: str) -> list[str]:
    module, name = path.rsplit(".", 1)
    value = getattr(importlib.import_module(module), name)
    return list(getattr(value, "names", value))


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
