"""What the network saw, as small pictures."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.store import Atlas, AtlasShard
from pipeline.store.images import pictures

SIDE = 128
"""Longest side of a thumbnail, in pixels."""
_BATCH = 32
_QUALITY = 80


def thumbnails(atlas: Atlas, part: AtlasShard, ordinals: Sequence[int]) -> dict[int, bytes]:
    """JPEGs of some pictures of a shard, by ordinal: the network's input, so that a map lies on it edge to edge.

    Raises:
        CorruptShardError: see ``pictures``.
    """
    return {
        ordinal: _thumbnail(pixels)
        for some, seen in pictures(atlas.run, part, ordinals, _BATCH)
        for ordinal, pixels in zip(some, seen, strict=True)
    }


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A picture [3, H, W] as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
