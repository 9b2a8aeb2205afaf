"""Whether maps are faithful to the network, and sane: measures that ask the network again."""

from pipeline.metrics.evaluate_atlas import evaluate_metrics
from pipeline.metrics.registry import FAITHFULNESS, KINDS, METRICS, SANITY

__all__ = ["FAITHFULNESS", "KINDS", "METRICS", "SANITY", "evaluate_metrics"]
