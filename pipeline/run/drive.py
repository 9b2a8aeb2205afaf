"""A planned run from where it stands to its end."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from pipeline.run.outcome import Outcome, SetAside
from pipeline.run.progress import RunProgress
from pipeline.store import Atlas
from schemas.errors import RunFailed, StoppedEarly, UsageError

Executor = Literal["ray", "inline"]


def run(
    url: str,
    executor: Executor = "ray",
    address: str | None = None,
    actors: int | None = None,
    decode_processes: int | None = None,
) -> Atlas:
    """Do every tar that has no commit yet.

    Args:
        url: of a planned atlas.
        executor: ``ray`` spreads tars over actors, ``inline`` does them one by one in this process.
        address, actors, decode_processes: see ``pool``.

    Returns:
        The finished atlas.

    Raises:
        RunFailed: some tars could not be done; the message names them.
        StoppedEarly: interrupted by SIGINT or SIGTERM.
    """
    atlas = Atlas.open(url)
    pending = [index for index, shard in enumerate(atlas.run.shards) if shard.tar not in atlas.commits]
    if pending:
        aside = []
        try:
            with RunProgress(atlas.run, len(atlas.run.shards) - len(pending)) as progress, interruptible():
                for outcome in _outcomes(url, pending, executor, address, actors, decode_processes):
                    progress.show(outcome)
                    if isinstance(outcome, SetAside):
                        aside.append(outcome)
        except KeyboardInterrupt:
            raise StoppedEarly(f"stopped early; go on with: vitatlas run {url}") from None
        if aside:
            reasons = "\n  ".join(outcome.reason for outcome in sorted(aside, key=lambda each: each.tar_index))
            raise RunFailed(
                f"{len(aside)} of {len(atlas.run.shards)} tars could not be done:\n  {reasons}\n"
                f"mend them and go on with: vitatlas run {url}"
            )
    finished = Atlas.open(url)
    if not any(commit.ok for commit in finished.commits.values()):
        raise RunFailed(f"no image of {url} has maps; vitatlas status {url} says why")
    return finished


def _outcomes(
    url: str,
    units: Sequence[int],
    executor: Executor,
    address: str | None,
    actors: int | None,
    decode_processes: int | None,
) -> Iterator[Outcome]:
    if executor == "ray" and url.startswith("memory:"):
        raise UsageError(f"{url}: is memory of this process, which no actor can see; use --executor inline")
    if executor == "inline":
        from pipeline.run.inline import inline

        yield from inline(url, units, decode_processes or 0)
    else:
        from pipeline.run.pool import cluster, pool  # Ray is needed only here

        with cluster(address), interruptible():  # again: ray.init puts its own handler for SIGTERM
            yield from pool(url, units, actors, decode_processes)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, as sent to a job that has to go, is taken like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
