"""Progress of a run on standard error: a bar on a terminal, else one line per shard."""

import sys
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.run.events import Event, LogMessage, ShardCommitted, ShardQuarantined
from schemas.run import RunRecord
from schemas.samples import SampleStatus
from schemas.text import escape_control


class RunProgress:
    """Progress display of a run.

    Args:
        run: that is shown.
        done: shards that earlier runs have committed.

    Attributes:
        shards_done: by this run or an earlier one.
        images: rows of the shards that this run has committed.
        statuses: number of these images by status.
        started: time of the start, on the monotonic clock.
    """

    def __init__(self, run: RunRecord, done: int) -> None:
        self.run, self.shards_done, self.images, self.statuses = run, done, 0, Counter[str]()
        self.started = time.monotonic()
        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("shards  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("explain", total=len(run.shards), completed=done, rate="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Images per second since the start."""
        return self.images / max(time.monotonic() - self.started, 1e-9)

    def show(self, event: Event) -> None:
        """Show a committed or quarantined shard, or a message; other events are ignored."""
        if isinstance(event, LogMessage):
            self._print(event.text)
            return
        if not isinstance(event, ShardCommitted | ShardQuarantined):
            return
        if isinstance(event, ShardCommitted):
            commit = event.commit
            self.images += commit.rows
            self.statuses.update(commit.statuses)
            failed = commit.rows - commit.ok
            note = f"{failed} of {commit.rows} samples have no maps" if failed else ""
            shard = commit.shard
        else:
            shard, note = self.run.shards[event.shard_index].name, f"quarantined: {event.reason}"
        without_maps = sum(count for status, count in self.statuses.items() if status != SampleStatus.OK)
        self.shards_done += isinstance(event, ShardCommitted)
        rate = f"{self.rate:.1f} images/s" + (f", {without_maps} images without maps" if without_maps else "")
        self._bar.update(self._task, completed=self.shards_done, rate=rate)
        if note:
            self._print(f"{shard}: {note}")
        elif not self._console.is_terminal:
            print(f"{shard}: committed, {self.shards_done} of {len(self.run.shards)} shards, {rate}", file=sys.stderr)

    def _print(self, text: str) -> None:
        self._console.print(escape_control(text), markup=False, highlight=False, soft_wrap=True)
