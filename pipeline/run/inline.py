"""Units one after another in this process: no Ray needed."""

from collections.abc import Iterator, Sequence

from pipeline.run.crew import Crew
from pipeline.run.dispatch import Dispatcher
from pipeline.run.outcome import Done, Outcome, SetAside
from pipeline.run.worker import Worker
from schemas.errors import AtlasError, BadTar


def inline(url: str, units: Sequence[int], crew: Crew, retry_failed: bool = False) -> Iterator[Outcome]:
    """Do the units of an atlas, in order; those that fail for a reason that may pass come again at the end."""
    dispatcher = Dispatcher(units, window=1)
    dispatcher.join(0)
    others = 0
    with Worker(url, crew.device, crew.decode_processes or 0, retry_failed) as worker:
        while assignment := dispatcher.next():
            unit = assignment.unit
            try:
                commit = worker.process(unit, assignment.attempt)
            except AtlasError as error:
                if not isinstance(error, BadTar):
                    raise
                dispatcher.fail(0, unit, f"{error}", final=True)
            except OSError as error:
                dispatcher.fail(0, unit, f"{error}", final=False)
            except Exception as error:
                others += 1
                if others > dispatcher.attempts:  # it is not this tar
                    raise
                dispatcher.fail(0, unit, f"{type(error).__name__}: {error}", final=False)
            else:
                others = 0
                dispatcher.finish(0, unit)
                yield Done(commit)
                continue
            if unit in dispatcher.set_aside:
                yield SetAside(unit, dispatcher.set_aside[unit])
