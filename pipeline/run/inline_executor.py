"""Units one after another in this process: no Ray needed."""

from collections.abc import Iterator, Sequence

from pipeline.run.dispatch import Dispatcher
from pipeline.run.events import Committed, Event, InProgress, Quarantined, Retrying
from pipeline.run.execution import ExecutionOptions
from pipeline.run.worker import Worker
from schemas.errors import AtlasError, CorruptShardError


def inline(url: str, units: Sequence[int], crew: ExecutionOptions, retry_failed: bool = False) -> Iterator[Event]:
    """Do the units of an atlas, in order; those that fail for a reason that may pass come again at the end."""
    dispatcher = Dispatcher(units, window=1)
    dispatcher.join(0)
    others = 0
    with Worker(url, crew.device, crew.decode_processes or 0, retry_failed, cache=crew.make_cache()) as worker:
        while assignment := dispatcher.next():
            unit = assignment.unit
            yield InProgress((unit,))
            try:
                commit = worker.process(unit, assignment.attempt)
            except AtlasError as error:
                if not isinstance(error, CorruptShardError):
                    raise
                reason, final = f"{error}", True
            except OSError as error:
                reason, final = f"{error}", False
            except Exception as error:
                others += 1
                if others > dispatcher.attempts:  # it is not this shard
                    raise
                reason, final = f"{type(error).__name__}: {error}", False
            else:
                others = 0
                dispatcher.finish(0, unit)
                yield Committed(commit)
                continue
            dispatcher.fail(0, unit, reason, final)
            if unit in dispatcher.quarantined:
                yield Quarantined(unit, assignment.attempt, dispatcher.quarantined[unit])
            else:
                yield Retrying(unit, assignment.attempt, reason)
