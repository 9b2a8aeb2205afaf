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
    from pipeline.store import MapReader
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


def check_complete(atlas: "MapReader | None", partial: bool) -> None:
    """Refuse an atlas with unfinished shards, or atlases with a gap between their lists, unless a part is enough.

    Then it is noted on standard error.

    Args:
        atlas: what a product is to be derived from; None is none.
        partial: ``--partial`` accepts it.

    Raises:
        UsageError: shards are not done, and a part was not asked for.
    """
    for each in atlas.atlases if atlas else ():
        url, done, planned = each.url, len(each.shard_names), len(each.run.shards)
        if done == planned:
            continue
        if not partial:
            raise UsageError(
                f"{url}: only {done} of {planned} shards are done; finish it: vitatlas run {url}, or add --partial to "
                "use what there is"
            )
        echo(f"note     only {done} of {planned} shards of {url} are done", err=True)
    for gap in atlas.gaps if atlas else ():
        if not partial:
            raise UsageError(
                f"{atlas.url if atlas else ''}: none has the shards {gap}; name the atlas that has them, too, or add "
                "--partial to use what there is"
            )
        echo(f"note     no atlas has the shards {gap}", err=True)


def print_left_out(atlas: "MapReader | None") -> None:
    """Print how many images were left out because not all of several atlases have them, on standard error."""
    for note in atlas.notes if atlas else ():
        print_note(note)


def refuse_networks(atlas: "MapReader", reason: str) -> None:
    """Refuse atlases of several networks, where a command takes those of one.

    Args:
        atlas: what was opened.
        reason: why, in a sentence.

    Raises:
        UsageError: it is of several networks.
    """
    if atlas.networks:
        first, *others = atlas.networks.values()
        differences = "; ".join(first.run.differences_to(others[0].run)[:3]) or "their shards are the same"
        raise UsageError(f"{reason}, and {first.url} and {others[0].url} are not of one run: {differences}")


def only_url(atlas: "MapReader") -> str:
    """Return the URL of an atlas, for a folder in it.

    Raises:
        UsageError: there are several, whose products belong to no one of them.
    """
    if len(atlas.atlases) > 1:
        raise UsageError(f"{atlas.url}: what is made of them belongs to no one of them; name a folder with --out DIR")
    return atlas.url.rstrip("/")


def print_warning(line: str) -> None:
    """Print a sentence on standard error that says what may be wrong with a result."""
    echo(f"warning  {line}", err=True)


def print_note(line: str) -> None:
    """Print a sentence for people on standard error."""
    echo(f"note     {line}", err=True)
