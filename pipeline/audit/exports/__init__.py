"""Exports of an audit, one file for each program that reads them."""

from pipeline.audit.exports.base import Exporter
from pipeline.audit.exports.quantus import Quantus
from pipeline.audit.exports.virelay import Virelay

EXPORTERS: dict[str, Exporter] = {"virelay": Virelay(), "quantus": Quantus()}

__all__ = ["EXPORTERS"]
