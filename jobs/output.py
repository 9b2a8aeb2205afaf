"""Output of commands: tables and sentences for people, JSON for programs."""

import json
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from pipeline.utils.console import SafeConsole
from pipeline.utils.json_values import replace_nonfinite
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.text import escape_control

if TYPE_CHECKING:
    from pipeline.store import Atlas
    from pipeline.store.label_accuracy import LabelAccuracy


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on standard output.

    Args:
        title: a line above the table.
        columns: headers.
        rows: cells; numbers are right-aligned, text is printed without markup.
    """
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table()
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    echo(title)
    # Without a terminal there is no width; 160 fits every table here, unless COLUMNS says otherwise.
    width = None if SafeConsole().is_terminal or "COLUMNS" in os.environ else 160
    SafeConsole(width=width).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else escape_control(str(value))


json_option = click.option("--json", "json_", is_flag=True, help="Print one JSON document, and nothing else.")
"""Flag of every command that prints; docs/reference/formats.md describes the documents."""


def print_json(value: Any, indent: int | None = 1) -> None:
    """Print one JSON document on standard output.

    Args:
        value: mappings, lists, text and numbers; NaN and infinity become null.
        indent: spaces of indentation; None prints one line.
    """
    for line in json.dumps(replace_nonfinite(value), indent=indent, allow_nan=False).split("\n"):
        echo(line)


def format_bytes(count: float) -> str:
    """Format a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def accuracy_document(accuracy: "LabelAccuracy | None") -> dict[str, Any] | None:
    """Return the accuracy on labels for ``--json``."""
    if accuracy is None:
        return None
    return vars(accuracy) | {"top1_interval": accuracy.top1_interval, "top5_interval": accuracy.top5_interval}


def print_accuracy(accuracy: "LabelAccuracy | None", to_stderr: bool = False) -> None:
    """Print the accuracy on labels with its 95 % intervals, and a warning if these seem to be of other classes.

    Args:
        accuracy: None if no image has a label, which prints nothing.
        to_stderr: print all of it on standard error.
    """
    if accuracy is None:
        return
    echo(f"accuracy {accuracy.summary}", err=to_stderr)
    if accuracy.fault:
        echo(f"warning  labels: {accuracy.fault}", err=True)


def check_complete(atlas: "Atlas | None", partial: bool) -> None:
    """Refuse an atlas with unfinished shards, unless a part is enough: then note it on standard error.

    Args:
        atlas: what a product is to be derived from; None is none.
        partial: ``--partial`` accepts it.

    Raises:
        UsageError: shards are not done, and a part was not asked for.
    """
    if atlas is None or len(atlas.shard_names) == len(atlas.run.shards):
        return
    url, done, planned = atlas.objects.url, len(atlas.shard_names), len(atlas.run.shards)
    if not partial:
        raise UsageError(
            f"{url}: only {done} of {planned} shards are done; finish it: vitatlas run {url}, or add --partial to use "
            "what there is"
        )
    echo(f"note     only {done} of {planned} shards of {url} are done", err=True)


def print_note(line: str) -> None:
    """Print a sentence for people on standard error."""
    echo(f"note     {line}", err=True)
