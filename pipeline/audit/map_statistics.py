"""What a map looks like, in numbers: how concentrated it is, and where."""

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.spray import l1_normalize
from pipeline.image.score_map import Window
from pipeline.truth import Truth

Floats = NDArray[np.float64]
FRAME = 8
"""Border and corners are so many times narrower than the picture, and one cell wide at least."""


def compute_statistics(maps: NDArray[np.floating]) -> dict[str, Floats]:
    """Numbers of maps, each taken as a distribution p of mass over its N cells.

    Args:
        maps: [n, h, w] ≥ 0, each with a minimum of 0 and anything above it.

    Returns:
        float64 [n] by name, all in [0, 1]:

        - ``entropy`` – −Σ p ln p / ln N; 1 is even. Without the divisor: complexity of Bhatt et al., IJCAI 2020.
        - ``gini`` – index of Gini (Hurley and Rickard, IEEE Trans. Inf. Theory 2009); 0 is even. The sum that Chalasani
          et al., ICML 2020, call sparseness is the same number.
        - ``effective_area`` – 1 / (N Σ p²), the share of the cells that as much mass would fill evenly.
        - ``centre_y``, ``centre_x`` – of the mass, as fractions of height and width of the network's input.
        - ``border``, ``corners`` – mass in a frame whose width is an eighth of the picture, and in its four corners.
    """
    height, width = maps.shape[1:]
    mass = l1_normalize(maps)
    flat = mass.reshape(len(mass), mass.shape[1] * mass.shape[2])
    cells = flat.shape[1]
    logs = np.log(flat, out=np.zeros_like(flat), where=flat > 0)
    behind = (cells - np.arange(1, cells + 1) + 0.5) / cells
    rows, columns = _edge(height), _edge(width)
    return {
        "entropy": -(flat * logs).sum(1) / np.log(cells) if cells > 1 else np.ones(len(flat)),
        "gini": 1 - 2 * (np.sort(flat, axis=1) * behind).sum(1),
        "effective_area": 1 / (cells * (flat**2).sum(1)),
        "center_y": (mass.sum(2) * (np.arange(height) + 0.5) / height).sum(1),
        "center_x": (mass.sum(1) * (np.arange(width) + 0.5) / width).sum(1),
        "border_mass": mass[:, rows[:, None] | columns].sum(1),
        "corner_mass": mass[:, rows[:, None] & columns].sum(1),
    }


def _edge(length: int) -> NDArray[np.bool_]:
    """Which of so many cells in a line are near an end of it: bool [length]."""
    wide = max(1, round(length / FRAME))
    place = np.arange(length)
    return (place < wide) | (place >= length - wide)


def compute_object_mass(maps: NDArray[np.floating], covered: NDArray[np.floating]) -> Floats:
    """Mass of maps [n, h, w] on the object: float64 [n] in [0, 1].

    Args:
        covered: [n, h, w], share of each cell that the object covers.
    """
    total: Floats = (l1_normalize(maps) * covered).sum((1, 2))
    return total


def compute_coverage(truth: Truth, width: int, height: int, window: Window, grid: tuple[int, int]) -> Floats | None:
    """How much of each cell of the patch grid an object covers, by its mask where it has one, or else by its boxes.

    Args:
        width, height: of the picture, in pixels.
        window: the part of it that maps are of.
        grid: rows and columns.

    Returns:
        float64 [h, w] in [0, 1]; None where there is no object.

    Raises:
        UsageError: the truth is of another size, or a box or mask cannot be used.
    """
    truth = truth.with_size(width, height)
    boxes, mask = truth.boxes, truth.mask
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
    """Mean of values [n, m] along the first axis between each two edges, which need not be whole; 0 beyond the ends."""
    total = np.vstack([np.zeros_like(values[:1]), values.cumsum(0)])
    at = edges.clip(0, len(values))
    whole = np.minimum(at.astype(np.int64), len(values) - 1)
    summed = total[whole] + (at - whole)[:, None] * values[whole]
    means: Floats = np.diff(summed, axis=0) / np.diff(edges)[:, None]
    return means
