"""The run lengths in which Label Studio keeps a painted mask."""

import numpy as np
from numpy.typing import NDArray

from pipeline.label.mask import Mask

_SIZES = np.array([3, 4, 8, 16])
"""Bits in which a length may be written."""
_WORD = 8
"""Bits of a value."""


def brush_rle(mask: Mask) -> list[int]:
    """A mask as bytes of Label Studio's format (``rle-pack`` of thi.ng/umbrella), over its pixels as RGBA.

    A header: how many values (32 bits), bits of a value less 1 (5), bits of each of four kinds of lengths less 1
    (4 each). Then for each run a 1, the kind of its length (2), its length less 1, and its value (8). Bits begin
    with the highest, and the last byte is filled with zeros.

    Args:
        mask: bool [height, width].
    """
    lengths, painted = _runs(mask)
    kinds = np.searchsorted(1 << _SIZES, lengths)
    sizes = _SIZES[kinds]
    words = (4 | kinds) << sizes | (lengths - 1)
    words = words << _WORD | 255 * painted
    header = [(4 * mask.size, 32), (_WORD - 1, 5), *((int(size) - 1, 4) for size in _SIZES)]
    bits = [_bits(np.array([value]), np.array([size])) for value, size in header] + [_bits(words, 3 + sizes + _WORD)]
    return np.packbits(np.concatenate(bits)).tolist()


def _runs(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths of the runs of equal bytes, row by row and no longer than can be written, and whether each is painted."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(starts, append=flat.size)  # a pixel is four equal bytes
    longest = 1 << int(_SIZES[-1])
    pieces = -(-lengths // longest)
    parts = np.full(pieces.sum(), longest)
    parts[pieces.cumsum() - 1] = lengths - (pieces - 1) * longest
    return parts, np.repeat(flat[starts].astype(np.int64), pieces)


def _bits(words: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Bits of words of these sizes, one after the other."""
    places = np.arange(sizes.max() - 1, -1, -1)
    every = (words[:, None] >> places & 1).astype(np.uint8)
    return every[places < sizes[:, None]]
