"""Exporters of an audit to other programs, one module per program."""

from typing import TYPE_CHECKING

from pipeline.utils.lazy_registry import LazyRegistry

if TYPE_CHECKING:
    from pipeline.audit.exports.base import AuditExporter

EXPORTERS: "LazyRegistry[AuditExporter]" = LazyRegistry(
    "pipeline.audit.exports", {"virelay": "virelay.VirelayExporter", "quantus": "quantus.QuantusExporter"}
)
"""All exports by name. An entry registers the exporter whose class is in a module of this package."""

__all__ = ["EXPORTERS"]
