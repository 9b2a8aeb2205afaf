"""How commands print: tables and sentences for people, JSON for programs."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from schemas.text import escape_control


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on standard output. Numbers stand right; cells are text, never markup."""
    from rich.text import Text

    rows = [list(row) for row in rows]
    shown = Table()
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float | None) for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", no_wrap=place == 0)
    for row in rows:
        shown.add_row(*(Text(_cell(value)) for value in row))
    click.echo(title)
    # Not on a terminal there is no width to know; wide enough for any table here, unless COLUMNS says.
    console = Console()
    width = None if console.is_terminal or "COLUMNS" in os.environ else 160
    Console(width=width).print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else escape_control(str(value))


json_option = click.option("--json", "json_", is_flag=True, help="Print one JSON document, and nothing else.")
"""Of every command that prints. What the documents hold: docs/reference/formats.md."""


def as_json(value: Any, indent: int | None = 1) -> None:
    """One JSON document on standard output. A number that is none is null: JSON has no NaN."""
    click.echo(json.dumps(_finite(value), indent=indent, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def note_partial(url: str) -> None:
    """Say so, on standard error, where an atlas is not complete."""
    from pipeline.store import Atlas

    atlas = Atlas.open(url)
    if len(atlas.shard_names) < len(atlas.run.shards):
        click.echo(
            f"note     only {len(atlas.shard_names)} of {len(atlas.run.shards)} shards of {url} are done", err=True
        )
