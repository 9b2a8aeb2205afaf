"""Exports of an audit, one file for each program that reads them."""

from pipeline.audit.exports.base import AuditExporter
from pipeline.audit.exports.quantus import QuantusExporter
from pipeline.audit.exports.virelay import VirelayExporter

EXPORTERS: dict[str, AuditExporter] = {"virelay": VirelayExporter(), "quantus": QuantusExporter()}

__all__ = ["EXPORTERS"]
