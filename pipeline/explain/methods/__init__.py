"""One file a method. A new one registers itself, and is named here in the order of the tables."""

from pipeline.explain.methods.attention import Attention
from pipeline.explain.methods.rollout import Rollout

from pipeline.explain.methods.legrad import LeGrad  # isort: skip
from pipeline.explain.methods.reciprocam import ReciproCAM  # isort: skip
from pipeline.explain.methods.controls import Center, Edges, Random, Uniform  # isort: skip

__all__ = ["Attention", "Center", "Edges", "LeGrad", "Random", "ReciproCAM", "Rollout", "Uniform"]
