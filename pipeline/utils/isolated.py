"""Maps whose mass sits in few isolated patches, as artefact tokens make them."""

import numpy as np
from numpy.typing import NDArray

_PEAK = 1 / 2
_NEAR = 1 / 8
_CELLS_PER_PEAK = 64


def is_isolated(maps: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which maps show a few single patches and nothing else.

    With d = (map − median) / (max − median), the height above what is usual in the map: there are patches with d ≥ 1/2,
    they are at most 1/64 of all, and none of their eight neighbors reaches d = 1/8. So every threshold between 1/8 and
    1/2 leaves single patches, whatever the network knows of the others. On grids of fewer than 64 patches a single one
    may be an object, and no map is isolated. Constant maps and maps that are not finite are not.

    Args:
        maps: [..., h, w]; a map and a · map + b with a > 0 give the same.

    Returns:
        bool [...].
    """
    if not maps.size:
        return np.zeros(maps.shape[:-2], bool)
    height, width = maps.shape[-2:]
    flat = maps.reshape(-1, height, width).astype(np.float64)
    finite = np.isfinite(flat).all((1, 2), keepdims=True)
    flat = np.where(finite, flat, 0)
    median, top = np.median(flat, axis=(1, 2), keepdims=True), flat.max((1, 2), keepdims=True)
    rises = top > median
    above = np.where(rises, (flat - median) / np.where(rises, top - median, 1), 0)
    padded = np.pad(above, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    moves = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    beside = np.max([padded[:, y : y + height, x : x + width] for y, x in moves], axis=0)
    peaks = above >= _PEAK
    count = peaks.sum((1, 2))
    alone = (~peaks | (beside < _NEAR)).all((1, 2))
    isolated: NDArray[np.bool_] = (count > 0) & (count <= height * width // _CELLS_PER_PEAK) & alone
    return isolated.reshape(maps.shape[:-2])
