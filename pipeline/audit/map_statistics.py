"""Statistics of single maps: how concentrated the mass is, and where it lies."""

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.spray import l1_normalize
from pipeline.image.score_map import Window
from pipeline.truth import Truth

Floats = NDArray[np.float64]
FRAME_DIVISOR = 8
"""Side of the image divided by the width of the frame; the frame is at least one cell wide."""


def compute_statistics(maps: NDArray[np.floating]) -> dict[str, Floats]:
    """Compute statistics of maps, each taken as a distribution p of mass over its N cells.

    Args:
        maps: [n, h, w] ≥ 0, each with a minimum of 0 and a maximum above it.

    Returns:
        float64 [n] by name, all in [0, 1]:

        - ``entropy`` – −Σ p ln p / ln N; 1 for an even map. Without the divisor: complexity of Bhatt et al. (2020).
        - ``gini`` – index of Gini (Hurley and Rickard, IEEE Trans. Inf. Theory 2009); 0 for an even map. It
          equals the sparseness of Chalasani et al., ICML 2020.
        - ``effective_area`` – 1 / (N Σ p²), the share of the cells that the same mass would fill evenly.
        - ``center_y``, ``center_x`` – center of the mass, as fractions of height and width of the network's input.
        - ``border_mass``, ``corner_mass`` – mass in a frame whose width is an eighth of the image, and in its corners.
    """
    height, width = maps.shape[1:]
    mass = l1_normalize(maps)
    flat = mass.reshape(len(mass), mass.shape[1] * mass.shape[2])
    cells = flat.shape[1]
    logs = np.log(flat, out=np.zeros_like(flat), where=flat > 0)
    weights = (cells - np.arange(1, cells + 1) + 0.5) / cells
    rows, columns = _edge(height), _edge(width)
    return {
        "entropy": -(flat * logs).sum(1) / np.log(cells) if cells > 1 else np.ones(len(flat)),
        "gini": 1 - 2 * (np.sort(flat, axis=1) * weights).sum(1),
        "effective_area": 1 / (cells * (flat**2).sum(1)),
        "center_y": (mass.sum(2) * (np.arange(height) + 0.5) / height).sum(1),
        "center_x": (mass.sum(1) * (np.arange(width) + 0.5) / width).sum(1),
        "border_mass": mass[:, rows[:, None] | columns].sum(1),
        "corner_mass": mass[:, rows[:, None] & columns].sum(1),
    }


def _edge(length: int) -> NDArray[np.bool_]:
    """Return a mask of the cells near an end of a line: bool [length]."""
    width = max(1, round(length / FRAME_DIVISOR))
    index = np.arange(length)
    return (index < width) | (index >= length - width)


def compute_object_mass(maps: NDArray[np.floating], covered: NDArray[np.floating]) -> Floats:
    """Compute the share of the mass of each map on the object: float64 [n] in [0, 1].

    Args:
        maps: [n, h, w] ≥ 0.
        covered: [n, h, w], share of each cell that the object covers.
    """
    total: Floats = (l1_normalize(maps) * covered).sum((1, 2))
    return total


def compute_coverage(truth: Truth, window: Window, grid: tuple[int, int]) -> Floats | None:
    """Compute the share of each cell of the patch grid that objects cover, by their mask or else by their boxes.

    Args:
        truth: ground truth of the image, of known size; see ``Truth.for_sample``.
        window: the part of the image that the network sees: x0, y0, x1, y1 as fractions.
        grid: rows and columns of the patch grid.

    Returns:
        float64 [h, w] in [0, 1]; None if there is no object.

    Raises:
        UsageError: a box or mask is invalid.
    """
    boxes, mask, width, height = truth.boxes, truth.mask, truth.width, truth.height
    assert width is not None
    assert height is not None
    if not len(boxes):
        return None
    if mask is None:
        mask = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in boxes:
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
    x0, y0, x1, y1 = window
    down = height * np.linspace(y0, y1, grid[0] + 1)
    across = width * np.linspace(x0, x1, grid[1] + 1)
    return _means(_means(mask.astype(np.float64), down).T, across).T


def _means(values: Floats, edges: Floats) -> Floats:
    """Return means of values [n, m] along the first axis between consecutive, fractional edges; values beyond are 0."""
    total = np.vstack([np.zeros_like(values[:1]), values.cumsum(0)])
    at = edges.clip(0, len(values))
    whole = np.minimum(at.astype(np.int64), len(values) - 1)
    summed = total[whole] + (at - whole)[:, None] * values[whole]
    means: Floats = np.diff(summed, axis=0) / np.diff(edges)[:, None]
    return means
