"""Attribution maps of vision transformers. A library of its own: needs torch and timm, nothing of the rest."""

from pipeline.explain.anatomy import Anatomy, describe
from pipeline.explain.maps import explain
from pipeline.explain.method import Method
from pipeline.explain.methods import Attention, Center, Edges, LeGrad, Random, ReciproCAM, Rollout, Uniform
from pipeline.explain.registry import methods  # the registry; the folder of that name holds its entries
from schemas.errors import UnsupportedMethod, UnsupportedModel

__all__ = [
    "Anatomy",
    "Attention",
    "Center",
    "Edges",
    "LeGrad",
    "Method",
    "Random",
    "ReciproCAM",
    "Rollout",
    "Uniform",
    "UnsupportedMethod",
    "UnsupportedModel",
    "describe",
    "explain",
    "methods",
]
