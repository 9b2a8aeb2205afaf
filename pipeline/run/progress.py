"""Progress of a run on standard error: a bar on a terminal, else one line per shard."""

import time

from pipeline.run.events import Event, LogMessage, ShardCommitted, ShardQuarantined
from pipeline.utils.progress import make_progress
from pipeline.utils.terminal import echo
from schemas.run_record import RunRecord
from schemas.text import escape_control


class RunProgress:
    """Progress display of a run.

    Args:
        run: that is shown.
        done: shards that earlier runs have committed.

    Attributes:
        shards_done: by this run or an earlier one.
        images, without_maps: rows of the shards that this run has committed, and those of them that have no maps.
        started: time of the start, on the monotonic clock.
    """

    def __init__(self, run: RunRecord, done: int) -> None:
        self.run, self.shards_done, self.images, self.without_maps = run, done, 0, 0
        self.started = time.monotonic()
        self._bar = make_progress()
        self._task = self._bar.add_task("explain shards", total=len(run.shards), completed=done)

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
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
            failed = commit.rows - commit.ok
            self.shards_done += 1
            self.images += commit.rows
            self.without_maps += failed
            shard, note = commit.shard, f"{failed} of {commit.rows} samples have no maps" if failed else ""
        else:
            shard, note = self.run.shards[event.shard_index].name, f"quarantined: {event.reason}"
        rate = f"{self.rate:.1f} images/s" + (f", {self.without_maps} images without maps" if self.without_maps else "")
        self._bar.update(self._task, completed=self.shards_done, description=f"explain shards, {rate}")
        if note:
            self._print(f"{shard}: {note}")
        elif self._bar.disable:
            echo(f"{shard}: committed, {self.shards_done} of {len(self.run.shards)} shards, {rate}", err=True)

    def _print(self, text: str) -> None:
        self._bar.console.print(escape_control(text), markup=False, highlight=False, soft_wrap=True)
