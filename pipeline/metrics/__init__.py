"""Faithfulness and sanity metrics, which run the model again."""

from pipeline.metrics.evaluate_atlas import evaluate_metrics
from pipeline.metrics.registry import FAITHFULNESS, METRICS, SANITY, SUITES

__all__ = ["FAITHFULNESS", "METRICS", "SANITY", "SUITES", "evaluate_metrics"]
