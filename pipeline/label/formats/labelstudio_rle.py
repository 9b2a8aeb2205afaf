"""Run-length encoding of brush masks in Label Studio."""

import numpy as np
from numpy.typing import NDArray

from pipeline.label.mask import Mask

_LENGTH_BITS = np.array([3, 4, 8, 16])
"""Numbers of bits in which a run length may be written."""
_VALUE_BITS = 8


def encode_brush_rle(mask: Mask) -> list[int]:
    """Return a mask as bytes of Label Studio's format (``rle-pack`` of thi.ng/umbrella), over its pixels as RGBA.

    The header is: number of values (32 bits), bits of a value less 1 (5), bits of each of the four kinds of run lengths
    less 1 (4 each). Then follow for each run a 1, the kind of its length (2), its length less 1, and its value (8). The
    highest bit comes first, and the last byte is filled with zeros.

    Args:
        mask: bool [height, width].
    """
    lengths, painted = _runs(mask)
    kinds = np.searchsorted(1 << _LENGTH_BITS, lengths)
    sizes = _LENGTH_BITS[kinds]
    words = (4 | kinds) << sizes | (lengths - 1)
    words = words << _VALUE_BITS | 255 * painted
    header = [(4 * mask.size, 32), (_VALUE_BITS - 1, 5), *((int(size) - 1, 4) for size in _LENGTH_BITS)]
    bits = [_bits(np.array([value]), np.array([size])) for value, size in header]
    return np.packbits(np.concatenate([*bits, _bits(words, 3 + sizes + _VALUE_BITS)])).tolist()


def _runs(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths of runs of equal bytes, in row order, split to the longest length, and whether each is painted."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(starts, append=flat.size)  # a pixel is four equal bytes
    longest = 1 << int(_LENGTH_BITS[-1])
    pieces = -(-lengths // longest)
    split = np.full(pieces.sum(), longest)
    split[pieces.cumsum() - 1] = lengths - (pieces - 1) * longest
    return split, np.repeat(flat[starts].astype(np.int64), pieces)


def _bits(words: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bits of words of these sizes, one after the other."""
    shifts = np.arange(sizes.max() - 1, -1, -1)
    bits = (words[:, None] >> shifts & 1).astype(np.uint8)
    return bits[shifts < sizes[:, None]]
