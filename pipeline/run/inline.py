"""Units one after another in this process: no Ray needed."""

from collections.abc import Iterator, Sequence

from pipeline.run.crew import Crew
from pipeline.run.dispatch import Dispatcher
from pipeline.run.outcome import Again, AtWork, Done, Outcome, SetAside
from pipeline.run.worker import Worker
from schemas.errors import AtlasError, BadTar


def inline(url: str, units: Sequence[int], crew: Crew, retry_failed: bool = False) -> Iterator[Outcome]:
    """Do the units of an atlas, in order; those that fail for a reason that may pass come again at the end."""
    dispatcher = Dispatcher(units, window=1)
    dispatcher.join(0)
    others = 0
    with Worker(url, crew.device, crew.decode_processes or 0, retry_failed, cache=crew.copies()) as worker:
        while assignment := dispatcher.next():
            unit = assignment.unit
            yield AtWork((unit,))
            try:
                commit = worker.process(unit, assignment.attempt)
            except AtlasError as error:
                if not isinstance(error, BadTar):
                    raise
                reason, final = f"{error}", True
            except OSError as error:
                reason, final = f"{error}", False
            except Exception as error:
                others += 1
                if others > dispatcher.attempts:  # it is not this tar
                    raise
                reason, final = f"{type(error).__name__}: {error}", False
            else:
                others = 0
                dispatcher.finish(0, unit)
                yield Done(commit)
                continue
            dispatcher.fail(0, unit, reason, final)
            if unit in dispatcher.set_aside:
                yield SetAside(unit, assignment.attempt, dispatcher.set_aside[unit])
            else:
                yield Again(unit, assignment.attempt, reason)
