"""Agreement of attribution methods: similarity metrics of pairs of maps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.image.iou import mask_iou
from pipeline.label.threshold import compute_threshold
from pipeline.utils.ranks import mean_ranks
from schemas.audit_tables import AGREEMENT_METRICS, TOP_SHARES
from schemas.policy import Threshold

Floats = NDArray[np.float64]
_OTSU = Threshold(kind="otsu")


@dataclass(frozen=True)
class PreparedMaps:
    """Maps of one method, with all that comparisons need, so that it is computed once per map and not once per pair.

    Attributes:
        valid: bool [n], True for maps that are finite and not constant.
        values: float64 [n, cells], values minus their mean.
        ranks: float64 [n, cells], ranks minus their mean.
        tops: by share, float64 [n, cells], the part of each cell that is among the highest; see ``_top``.
        mask: bool [n, cells], True above Otsu's threshold.
    """

    valid: NDArray[np.bool_]
    values: Floats
    ranks: Floats
    tops: Mapping[float, Floats]
    mask: NDArray[np.bool_]


def prepare_maps(maps: NDArray[np.floating]) -> PreparedMaps:
    """Precompute ranks, top cells and masks of the maps of a method.

    Args:
        maps: [n, h, w] in [0, 1]; NaN anywhere in a map makes it invalid.
    """
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).astype(np.float64)
    valid = np.isfinite(flat).all(1) & (np.ptp(flat, axis=1) > 0)
    flat = np.where(valid[:, None], flat, 0.0)
    ranks = mean_ranks(flat)
    return PreparedMaps(
        valid=valid,
        values=flat - flat.mean(1, keepdims=True),
        ranks=ranks - ranks.mean(1, keepdims=True),
        tops={share: _top(flat, share) for share in TOP_SHARES.values()},
        mask=np.array([row > compute_threshold(row.astype(np.float32), _OTSU) for row in flat], bool).reshape(
            flat.shape
        ),
    )


def _top(flat: Floats, share: float) -> Floats:
    """Return 1 for the highest cells, which make up a share of the map (rounded up), and 0 for the others.

    Cells that are tied for the last places share them evenly, since the map does not rank them.
    """
    count = int(np.ceil(share * flat.shape[1]))
    last = -np.partition(-flat, count - 1, axis=1)[:, count - 1, None]
    higher, tied = flat > last, flat == last
    return higher + tied * ((count - higher.sum(1)) / tied.sum(1))[:, None]


def compare_maps(first: PreparedMaps, second: PreparedMaps) -> dict[str, Floats]:
    """Compute the agreement of two methods, map by map.

    Args:
        first: n maps of one method.
        second: maps of another method of the same n images.

    Returns:
        float64 [n] by the name of the metric, NaN where either map is invalid, exactly 1 for equal maps:

        - ``pearson``, ``spearman`` – correlation of the values, and of their ranks, where ties share a mean rank.
        - ``top5``, ``top10``, ``top20`` – share of the highest 5, 10, 20 % of the cells that both have in common
          (top-k overlap: Krishna et al., The Disagreement Problem in Explainable ML, TMLR 2024, section 3).
        - ``iou`` – intersection over union of the cells above Otsu's threshold; 1 where both are empty.
    """
    metrics = {
        "pearson": _correlation(first.values, second.values),
        "spearman": _correlation(first.ranks, second.ranks),
        **{name: _overlap(first.tops[share], second.tops[share]) for name, share in TOP_SHARES.items()},
        "iou": mask_iou(first.mask, second.mask, axis=1),
    }
    valid = first.valid & second.valid
    return {name: np.where(valid, metrics[name], np.nan) for name in AGREEMENT_METRICS}


def compare_pairs(maps: Mapping[str, NDArray[np.floating]]) -> Iterator[tuple[str, str, dict[str, Floats]]]:
    """Yield the names and the agreement of each pair of methods, in their order; see ``compare_maps``."""
    prepared = {name: prepare_maps(values) for name, values in maps.items()}
    for first, second in combinations(prepared, 2):
        yield first, second, compare_maps(prepared[first], prepared[second])


def _correlation(first: Floats, second: Floats) -> Floats:
    # One root of the product, not a product of two roots: so a map and itself give exactly 1.
    products, squares = (first * second).sum(1), (first * first).sum(1) * (second * second).sum(1)
    return products / np.sqrt(np.where(squares > 0, squares, np.inf))


def _overlap(first: Floats, second: Floats) -> Floats:
    return np.minimum(first, second).sum(1) / ((first.sum(1) + second.sum(1)) / 2)
