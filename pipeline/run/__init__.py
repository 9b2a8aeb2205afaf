"""Units over actors: plan, then run from wherever it stands."""

from pipeline.run.crew import INLINE, Crew
from pipeline.run.drive import run
from pipeline.run.plan import plan

__all__ = ["INLINE", "Crew", "plan", "run"]
