"""The report of an audit: a folder of static pages that opens from a disk or a bucket, without server or network."""

from pipeline.audit.report.build import write_report

__all__ = ["write_report"]
