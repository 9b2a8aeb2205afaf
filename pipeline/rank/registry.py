"""All signals."""

from pipeline.rank.signal import Signal
from pipeline.rank.signals.class_difference import ClassDifference
from pipeline.rank.signals.consensus import Consensus
from pipeline.rank.signals.crop import Crop
from pipeline.rank.signals.exchange import Exchange
from pipeline.rank.signals.grid_pointing import Pointing
from pipeline.rank.signals.map_checks import Contrast, Spread
from pipeline.rank.signals.removal import Removal

SIGNALS: tuple[Signal, ...] = (
    Consensus(),
    Removal(),
    Exchange(),
    Crop(),
    Pointing(),
    Contrast(),
    Spread(),
    ClassDifference(),
)
"""In the order of tables."""
