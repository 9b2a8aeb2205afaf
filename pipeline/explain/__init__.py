"""Attribution maps of vision networks. A library of its own: needs torch, timm, scipy and Pillow."""

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution import *  # noqa: F403 – every registered method
from pipeline.explain.explainer import explain
from pipeline.explain.foreign_models import as_timm, describe
from pipeline.explain.head import Head
from pipeline.explain.map_batch import MapBatch, flags
from pipeline.explain.method import Method
from pipeline.explain.network import Network
from pipeline.explain.preprocess import overlay, prepare
from pipeline.explain.registers import Registers
from pipeline.explain.registry import methods
from schemas.errors import UnsupportedMethod, UnsupportedModel
from schemas.layout import Flag

__all__ = [
    "Anatomy",
    "Flag",
    "Head",
    "MapBatch",
    "Method",
    "Network",
    "Registers",
    "UnsupportedMethod",
    "UnsupportedModel",
    "as_timm",
    "describe",
    "explain",
    "flags",
    "methods",
    "overlay",
    "prepare",
]
__all__ += [method.__name__ for method in methods.values()]
