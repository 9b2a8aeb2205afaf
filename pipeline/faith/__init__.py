"""Whether maps are faithful to the network, and sane: measures that ask the network again."""

from pipeline.faith.examine import Examined, examine, examine_tar
from pipeline.faith.measures import FAITHFULNESS, MEASURES, SANITY

__all__ = ["FAITHFULNESS", "MEASURES", "SANITY", "Examined", "examine", "examine_tar"]
