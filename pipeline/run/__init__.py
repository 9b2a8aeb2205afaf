"""Units over actors: a plan (``pipeline.run.plan``), then a run from wherever it stands.

A run that finds everything done needs no network, and its driver never does: torch is imported by actors alone.
"""

from pipeline.run.driver import run
from pipeline.run.execution import INLINE, ExecutionOptions

__all__ = ["INLINE", "ExecutionOptions", "run"]
