"""What strangers write into records, and a call of the command line that sees what it prints."""

import copy
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
from hypothesis import strategies as st

from jobs.cli import main

FORGED = "FORGED LINE"
TEXT = f"\x1b]0;title\x07\x1b[2J\x9b31m\u202e\u2066\u200f\u061c\u2028\ufeff\r\n{FORGED}\x7f"
"""Moves the cursor, sets the title of the window, turns the direction of writing round, and begins a line."""
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")

Path = tuple[str | int, ...]


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command, which must end like one, and print nothing but text."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(printed), redirect_stderr(printed):
        patched.setattr(sys, "argv", ["vitatlas", *map(str, arguments)])
        patched.setattr("jobs.cli.bound_exit", lambda code: None)  # this process goes on
        with pytest.raises(SystemExit) as stopped:
            main()
    text = printed.getvalue()
    assert stopped.value.code in (0, 1, 2, 75)
    assert "Traceback" not in text
    assert not _CONTROL.search(text), text
    assert not any(line.startswith(FORGED) for line in text.split("\n")), text
    return int(stopped.value.code), text


def paths(node: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a JSON document; of long lists the first two elements."""
    yield path
    if isinstance(node, dict):
        for name, value in node.items():
            yield from paths(value, (*path, name))
    if isinstance(node, list):
        for index, value in enumerate(node[:2]):
            yield from paths(value, (*path, index))


def value_at(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document


def replaced(document: Any, path: Path, value: Any) -> Any:
    """A copy of a document with another value at a place."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    value_at(changed, path[:-1])[path[-1]] = value
    return changed


VALUES = [
    None, True, -1, 0, 1, 3, 10**12, -(10**12), 1 << 62, 1 << 64, 10**30, 1e308, -0.5, float("nan"), float("inf"),
    "", "a", "0", TEXT, "../../x", "/etc/passwd", "a" * 5000, "\ud800", "2026-01-01", "0001-01-01T00:00:00+23:59",
    [], {}, [[]], [None], [TEXT], {TEXT: TEXT}, {"": None}, [0] * 1000, json.loads("[" * 60 + "]" * 60),
]  # fmt: skip
RAW = [
    b"", b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b"{}", b"[]", b"1" * 10_000, b'{"format": 1e999}',
    b'{"format": 2}', b'{"format": 10000000000000000000000}', b'{"format": "2"}', b'{"format": null}', b"\0" * 100,
    b'"' + TEXT.encode("utf-16-le") + b'"',
]  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, document: bytes, values: list[Any] = VALUES) -> bytes:
    """A JSON document with one of the values at one place, or cut off, or something else altogether."""
    how = draw(st.sampled_from(["value", "value", "value", "value", "remove", "add", "rename", "cut", "raw"]))
    if how == "raw":
        return draw(st.sampled_from(RAW))
    if how == "cut":
        return document[: draw(st.integers(0, len(document)))]
    content = json.loads(document)
    path = draw(st.sampled_from([path for path in paths(content) if path]))
    if how == "value":
        return json.dumps(replaced(content, path, draw(st.sampled_from(values)))).encode()
    parent = value_at(content, path[:-1])
    if how == "remove":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent *= 3
    elif how == "rename":
        parent[draw(st.sampled_from([TEXT, "", "a", "../a"]))] = parent.pop(path[-1])
    else:
        parent[draw(st.sampled_from([TEXT, "", "a", "../a"]))] = draw(st.sampled_from(values))
    return json.dumps(content).encode()
