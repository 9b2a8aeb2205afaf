"""Units one after another in this process: no Ray needed."""

from collections.abc import Iterator, Sequence

from pipeline.run.outcome import Done, Outcome, SetAside
from pipeline.run.worker import Worker
from schemas.errors import BadTar


def inline(url: str, units: Sequence[int], decode_processes: int = 0) -> Iterator[Outcome]:
    """Do the units of an atlas, in order."""
    worker = Worker(url, decode_processes)
    for unit in units:
        try:
            yield Done(worker.process(unit))
        except BadTar as error:
            yield SetAside(unit, str(error))
