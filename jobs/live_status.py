"""``vitatlas status --watch``: live progress of a run until it ends."""

import time
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs import output
from pipeline.run.status import RunStatus, StatusReader
from pipeline.store import Atlas
from pipeline.utils.console import SafeConsole
from pipeline.utils.io import with_retries
from pipeline.utils.terminal import echo
from schemas.errors import RunFailedError, StoppedEarlyError
from schemas.text import escape_control


def watch(url: str, interval: float, json_: bool = False) -> None:
    """Show the progress of a run at an interval: a display on a terminal, else a line, or a line of JSON.

    Args:
        url: of the atlas.
        interval: seconds.
        json_: print JSON.

    Raises:
        UsageError: there is no atlas.
        RunFailedError: the run has ended, and shards are quarantined.
        StoppedEarlyError: Ctrl-C or SIGTERM, which do not affect the run.
    """
    try:
        status = _show_until_end(url, interval, json_)
    except KeyboardInterrupt:
        raise StoppedEarlyError(f"{url}: stopped watching; the run is not affected") from None
    if not status.complete:
        count = sum(status.quarantined.values())
        raise RunFailedError(f"{count} of {status.shards} shards are quarantined; see vitatlas status {url}")


def _show_until_end(url: str, interval: float, json_: bool) -> RunStatus:
    """Show a run, then each of its parts, until they are over; return the first status that is not complete, if any."""
    statuses = [
        _show_one_until_end(each, interval, json_)
        for each in (url, *(part.objects.url for part in Atlas.open(url).parts))
    ]
    return next((status for status in statuses if not status.complete), statuses[0])


def _show_one_until_end(url: str, interval: float, json_: bool) -> RunStatus:
    """Show one run until it is over; return its last status."""
    reader, console = StatusReader(url), SafeConsole()
    with Live(console=console, auto_refresh=False) if not json_ else nullcontext() as live:
        while True:
            status = with_retries(reader.read)
            if live is None:
                output.print_json(asdict(status) | {"ended": status.ended}, indent=None)
            elif console.is_terminal:
                live.update(display(url, status), refresh=True)
            else:
                echo(line(status))
            if status.ended:
                return status
            time.sleep(interval)


def line(status: RunStatus) -> str:
    """Format a status as one line."""
    failures = [f"{count} × {reason}" for reason, count in (status.failed | status.quarantined).items()]
    return "; ".join([", ".join(f"{name} {value}" for name, value in _counts(status).items()), *failures])


def display(url: str, status: RunStatus) -> Group:
    """Build the terminal display: progress bar, counts, and failures by reason; text from data is never markup."""
    counts = Table.grid(padding=(0, 2))
    for name, value in _counts(status).items():
        counts.add_row(name, Text(value))
    parts: list[RenderableType] = [Text(escape_control(url)), ProgressBar(status.shards, status.done, width=60), counts]
    for title, reasons in (("images without maps", status.failed), ("shards quarantined", status.quarantined)):
        if reasons:
            table = Table(title, "", title_justify="left")
            for reason, count in reasons.items():
                table.add_row(Text(escape_control(reason)), f"{count:,}")
            parts.append(table)
    return Group(*parts)


def _counts(status: RunStatus) -> dict[str, str]:
    left = None if status.seconds_left is None else str(timedelta(seconds=round(status.seconds_left)))
    inactive = "none, no run is active" if status.started else "none, not started"
    return {
        "shards": f"{status.done:,} of {status.shards:,}",
        "running": f"{len(status.in_progress):,}" if status.active else inactive,
        "failed": f"{sum(status.quarantined.values()):,}",
        "images": f"{status.images_done:,} of {status.images:,}",
        "images/s": "–" if status.rate is None else f"{status.rate:,.1f}",
        "left": left or "–",
        "network idle": "–" if status.idle is None else f"{status.idle:.0%}",
    }
