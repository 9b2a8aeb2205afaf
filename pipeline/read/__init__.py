"""Reading of shards: from tars to batches of decoded images and their samples."""

from pipeline.image import CropTransform, PreprocessConfig
from pipeline.read.baseline_jpeg import BaselineJpeg, parse_baseline_jpeg
from pipeline.read.byte_stream import CorruptTarError, describe_source
from pipeline.read.cache import ShardCache
from pipeline.read.decode import DecodedImage, decode_image
from pipeline.read.decoder_pool import DecoderPool, ImageDecoder
from pipeline.read.labels import LabelRule
from pipeline.read.loader import DecodedSample, ImageBatch, iter_batches
from pipeline.read.shard_reader import check_source, read_listing
from pipeline.read.shards import count_disjoint, count_samples, expand_shards, find_labels, resolve_pattern
from pipeline.read.strip_metadata import UndecodableImageError
from pipeline.read.texts import TextRule

__all__ = [
    "BaselineJpeg",
    "CorruptTarError",
    "CropTransform",
    "DecodedImage",
    "DecodedSample",
    "DecoderPool",
    "ImageBatch",
    "ImageDecoder",
    "LabelRule",
    "PreprocessConfig",
    "ShardCache",
    "TextRule",
    "UndecodableImageError",
    "check_source",
    "count_disjoint",
    "count_samples",
    "decode_image",
    "describe_source",
    "expand_shards",
    "find_labels",
    "iter_batches",
    "parse_baseline_jpeg",
    "read_listing",
    "resolve_pattern",
]
