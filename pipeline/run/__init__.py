"""Runs: planning (``pipeline.run.plan``), then shards on Ray actors or in this process until all are committed.

A finished run is recognized without loading a model; only actors import torch.
"""

from pipeline.run.driver import run
from pipeline.run.execution import INLINE, ExecutionOptions

__all__ = ["INLINE", "ExecutionOptions", "run"]
