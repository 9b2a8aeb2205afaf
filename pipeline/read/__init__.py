"""From shards to batches of pictures that know where they came from."""

from pipeline.image import Frame, Placement
from pipeline.read.baseline_jpeg import Plain, plain
from pipeline.read.cache import Cache
from pipeline.read.decode import Picture, Undecodable, decode
from pipeline.read.decoder_pool import Decoders, Decoding
from pipeline.read.loader import Batch, Sample, batches
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
