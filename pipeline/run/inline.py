"""Units one after another in this process: no Ray needed."""

from collections.abc import Iterator, Sequence

from pipeline.run.crew import Crew
from pipeline.run.dispatch import Dispatcher
from pipeline.run.outcome import Done, Outcome, SetAside
from pipeline.run.worker import Worker
from schemas.errors import BadTar


def inline(url: str, units: Sequence[int], crew: Crew, retry_failed: bool = False) -> Iterator[Outcome]:
    """Do the units of an atlas, in order; those that fail for a reason that may pass come again at the end."""
    dispatcher = Dispatcher(units, window=1)
    dispatcher.join(0)
    with Worker(url, crew.device, crew.decode_processes or 0, retry_failed) as worker:
        while assignment := dispatcher.next():
            unit = assignment.unit
            try:
                commit = worker.process(unit, assignment.attempt)
            except (BadTar, OSError) as error:
                dispatcher.fail(0, unit, f"{error}", final=isinstance(error, BadTar))
                if unit in dispatcher.set_aside:
                    yield SetAside(unit, dispatcher.set_aside[unit])
            else:
                dispatcher.finish(0, unit)
                yield Done(commit)
