"""``vitatlas status --watch``: how a run stands, until it is over."""

import time
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs import output
from pipeline.run.status import RunStatus, StatusReader
from pipeline.utils.io import with_retries
from schemas.errors import RunFailedError, StoppedEarlyError
from schemas.text import escape_control


def watch(url: str, interval: float, json_: bool = False) -> None:
    """Show a run every so many seconds: a picture on a terminal, a line in a log, or a line of JSON.

    Raises:
        UsageError: there is no atlas.
        RunFailedError: the run has ended, and some shards could not be done.
        StoppedEarlyError: Ctrl-C or SIGTERM. The run is not touched by it.
    """
    try:
        standing = _last(url, interval, json_)
    except KeyboardInterrupt:
        raise StoppedEarlyError(f"{url}: no longer watching; what is at work there goes on") from None
    if not standing.complete:
        aside = sum(standing.aside.values())
        raise RunFailedError(f"{aside} of {standing.shards} shards could not be done; vitatlas status {url} says why")


def _last(url: str, interval: float, json_: bool) -> RunStatus:
    """Show a run until it is over, and hand back how it ended."""
    watched, console = StatusReader(url), Console()
    with Live(console=console, auto_refresh=False) if not json_ else nullcontext() as live:
        while True:
            standing = with_retries(watched.look)
            if live is None:
                output.as_json(asdict(standing) | {"over": standing.over}, indent=None)
            elif console.is_terminal:
                live.update(picture(url, standing), refresh=True)
            else:
                click.echo(escape_control(line(standing)))
            if standing.over:
                return standing
            time.sleep(interval)


def line(standing: RunStatus) -> str:
    """A run in one line."""
    failures = [f"{count} × {reason}" for reason, count in (standing.failed | standing.aside).items()]
    return "; ".join([", ".join(f"{name} {value}" for name, value in _figures(standing).items()), *failures])


def picture(url: str, standing: RunStatus) -> Group:
    """A run on a terminal: a bar, figures, and failures by reason. Texts of others are text, never markup."""
    figures = Table.grid(padding=(0, 2))
    for name, value in _figures(standing).items():
        figures.add_row(name, Text(value))
    parts: list[RenderableType] = [
        Text(escape_control(url)),
        ProgressBar(standing.shards, standing.done, width=60),
        figures,
    ]
    for title, reasons in (("images without maps", standing.failed), ("shards quarantined", standing.aside)):
        if reasons:
            table = Table(title, "", title_justify="left")
            for reason, count in reasons.items():
                table.add_row(Text(escape_control(reason)), f"{count:,}")
            parts.append(table)
    return Group(*parts)


def _figures(standing: RunStatus) -> dict[str, str]:
    left = None if standing.left is None else str(timedelta(seconds=round(standing.left)))
    nobody = "none, no run is at work" if standing.begun else "none: planned, but not begun"
    return {
        "shards": f"{standing.done:,} of {standing.shards:,}",
        "running": f"{len(standing.in_progress):,}" if standing.alive else nobody,
        "failed": f"{sum(standing.aside.values()):,}",
        "images": f"{standing.images_done:,} of {standing.images:,}",
        "images/s": "–" if standing.rate is None else f"{standing.rate:,.1f}",
        "left": left or "–",
        "network idle": "–" if standing.idle is None else f"{standing.idle:.0%}",
    }
