"""What a person sees while a run goes on: a bar on a terminal, a line a shard in a log."""

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

from pipeline.run.events import Committed, Event, Message, Quarantined
from schemas.run import RunRecord
from schemas.samples import SampleStatus
from schemas.text import escape_control


class RunProgress:
    """Live progress of a run on standard error.

    Attributes:
        shards: done, by this run or an earlier one.
        images: explained or recorded since the start.
        statuses: how many of them ended in each status.
        started: when.
    """

    def __init__(self, run: RunRecord, done: int) -> None:
        self.run, self.shard_names, self.images, self.statuses = run, done, 0, Counter[str]()
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
        """Images a second since the start."""
        return self.images / max(time.monotonic() - self.started, 1e-9)

    def show(self, outcome: Event) -> None:
        """Take note of a finished or set-aside shard, or pass on what is to be known."""
        if isinstance(outcome, Message):
            self._console.print(escape_control(outcome.text), markup=False, highlight=False, soft_wrap=True)
            return
        if not isinstance(outcome, Committed | Quarantined):
            return
        if isinstance(outcome, Committed):
            commit = outcome.commit
            self.images += commit.rows
            self.statuses.update(commit.statuses)
            failed = commit.rows - commit.ok
            note = f"{failed} of {commit.rows} samples have no maps" if failed else ""
            shard = commit.shard
        else:
            shard, note = self.run.shards[outcome.shard_index].name, f"quarantined: {outcome.reason}"
        bad = sum(count for status, count in self.statuses.items() if status != SampleStatus.OK)
        self.shard_names += isinstance(outcome, Committed)
        rate = f"{self.rate:.1f} images/s" + (f", {bad} images without maps" if bad else "")
        self._bar.update(self._task, completed=self.shard_names, rate=rate)
        if note:
            self._console.print(escape_control(f"{shard}: {note}"), markup=False, highlight=False, soft_wrap=True)
        elif not self._console.is_terminal:
            print(f"{shard}: committed, {self.shard_names} of {len(self.run.shards)} shards, {rate}", file=sys.stderr)
