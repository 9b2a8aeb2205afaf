"""Units over actors: a plan (``pipeline.run.plan``), then a run from wherever it stands.

A run that finds everything done needs no network, and its driver never does: torch is imported by actors alone.
"""

from pipeline.run.crew import INLINE, Crew
from pipeline.run.drive import run

__all__ = ["INLINE", "Crew", "run"]
