"""One pipeline from result files to tables, pictures and pages."""

from benchmarks.report.tables import render

__all__ = ["render"]
