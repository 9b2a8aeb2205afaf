"""Whether maps are faithful to the network, and sane: measures that ask the network again."""

from pipeline.faith.make import faith
from pipeline.faith.measures import FAITHFULNESS, KINDS, MEASURES, SANITY

__all__ = ["FAITHFULNESS", "KINDS", "MEASURES", "SANITY", "faith"]
