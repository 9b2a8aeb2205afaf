"""Whether maps are faithful to the network, and sane: measures that ask the network again."""

from pipeline.metrics.evaluate_atlas import faith
from pipeline.metrics.registry import FAITHFULNESS, KINDS, MEASURES, SANITY

__all__ = ["FAITHFULNESS", "KINDS", "MEASURES", "SANITY", "faith"]
