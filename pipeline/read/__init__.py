"""From tars to batches of pictures that know where they came from."""

from pipeline.picture import Frame, Placement
from pipeline.read.batches import Batch, Sample, batches
from pipeline.read.cache import Cache
from pipeline.read.decode import Picture, Undecodable, decode
from pipeline.read.decoders import Decoders, Decoding
from pipeline.read.plain import Plain, plain
from pipeline.read.shards import absolute, count, find

__all__ = [
    "Batch",
    "Cache",
    "Decoders",
    "Decoding",
    "Frame",
    "Picture",
    "Placement",
    "Plain",
    "Sample",
    "Undecodable",
    "absolute",
    "batches",
    "count",
    "decode",
    "find",
    "plain",
]
