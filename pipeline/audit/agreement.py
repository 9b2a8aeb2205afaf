"""How much do two methods say the same of a picture?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.image.iou import mask_iou
from pipeline.label.threshold import threshold
from schemas.audit_tables import AGREEMENT_METRICS, TOP_SHARES
from schemas.policy import Threshold

Floats = NDArray[np.float64]
_OTSU = Threshold(kind="otsu")


@dataclass(frozen=True)
class PreparedMaps:
    """Maps of one method, so that each of them is looked at once, however many others it is compared with.

    Attributes:
        says: bool [n], whether a map says anything: it is finite, and not constant.
        values, ranks: float64 [n, cells], less their mean.
        tops: by share, float64 [n, cells], how much of a cell is among the highest; see ``_top``.
        mask: bool [n, cells], above Otsu's threshold.
    """

    says: NDArray[np.bool_]
    values: Floats
    ranks: Floats
    tops: Mapping[float, Floats]
    mask: NDArray[np.bool_]


def prepare_maps(maps: NDArray[np.floating]) -> PreparedMaps:
    """Prepare maps of a method.

    Args:
        maps: [n, h, w] in [0, 1]; NaN anywhere in a map: it says nothing.
    """
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).astype(np.float64)
    says = np.isfinite(flat).all(1) & (np.ptp(flat, axis=1) > 0)
    flat = np.where(says[:, None], flat, 0.0)
    ranks = rankdata(flat, axis=1)
    return PreparedMaps(
        says=says,
        values=flat - flat.mean(1, keepdims=True),
        ranks=ranks - ranks.mean(1, keepdims=True),
        tops={share: _top(flat, share) for share in TOP_SHARES.values()},
        mask=np.array([row > threshold(row.astype(np.float32), _OTSU) for row in flat], bool).reshape(flat.shape),
    )


def _top(flat: Floats, share: float) -> Floats:
    """1 of the highest cells, so many that they make that share of the map, rounded up; 0 of the others.

    Cells that are tied for the last places share them evenly: which of them were to be taken is not said by the map.
    """
    count = int(np.ceil(share * flat.shape[1]))
    last = -np.partition(-flat, count - 1, axis=1)[:, count - 1, None]
    above, tied = flat > last, flat == last
    return above + tied * ((count - above.sum(1)) / tied.sum(1))[:, None]


def compare_maps(first: PreparedMaps, second: PreparedMaps) -> dict[str, Floats]:
    """Agreement of two methods, map by map.

    Returns:
        float64 [n] by the name of the measure, NaN where either map says nothing; a map and itself: exactly 1.

        - ``pearson``, ``spearman`` – correlation of the values, and of their ranks, ties sharing a mean one.
        - ``top5``, ``top10``, ``top20`` – what the highest 5, 10, 20 % of the cells have in common, as a share of them
          (top-k overlap: Krishna et al., The Disagreement Problem in Explainable ML, TMLR 2024, section 3).
        - ``iou`` – intersection over union of the cells above Otsu's threshold; 1 where neither has any.
    """
    measured = {
        "pearson": _correlation(first.values, second.values),
        "spearman": _correlation(first.ranks, second.ranks),
        **{name: _overlap(first.tops[share], second.tops[share]) for name, share in TOP_SHARES.items()},
        "iou": mask_iou(first.mask, second.mask, axis=1),
    }
    both = first.says & second.says
    return {name: np.where(both, measured[name], np.nan) for name in AGREEMENT_METRICS}


def compare_pairs(maps: Mapping[str, NDArray[np.floating]]) -> Iterator[tuple[str, str, dict[str, Floats]]]:
    """Agreement of each two of several methods, in their order; see ``compare``."""
    prepared = {name: prepare_maps(values) for name, values in maps.items()}
    for first, second in combinations(prepared, 2):
        yield first, second, compare_maps(prepared[first], prepared[second])


def _correlation(first: Floats, second: Floats) -> Floats:
    # The root of a square is what was squared, so that a map and itself give 1 and nothing beside it.
    together, squares = (first * second).sum(1), (first * first).sum(1) * (second * second).sum(1)
    return together / np.sqrt(np.where(squares > 0, squares, np.inf))


def _overlap(first: Floats, second: Floats) -> Floats:
    return np.minimum(first, second).sum(1) / ((first.sum(1) + second.sum(1)) / 2)
