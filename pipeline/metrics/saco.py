"""SaCo: whether patches with more relevance have more effect."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.masked_forward import removal_ranks
from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from schemas.errors import UsageError
from schemas.metrics import DIRECTIONS, Directions


def patch_groups(maps: NDArray[np.floating], groups: int) -> NDArray[np.bool_]:
    """Divide the patches of maps into groups of equal size, the most relevant first: bool [..., groups, N].

    Where the number of patches is no multiple, the first groups have one more. Equal values go by their index.

    Args:
        maps: float [..., h, w].
        groups: number of groups, at most N.
    """
    ranks = removal_ranks(maps, "most")
    sizes = [len(part) for part in np.array_split(np.arange(ranks.shape[-1]), groups)]
    group_of_rank = np.repeat(np.arange(groups), sizes)
    masks: NDArray[np.bool_] = group_of_rank[ranks][..., None, :] == np.arange(groups)[:, None]
    return masks


def saco(relevance: NDArray[np.floating], drops: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the coefficient F in [−1, 1]: float64 [...], NaN where all groups have the same relevance.

    F = Σ w_ij / Σ |w_ij| over pairs i < j, w_ij = s_i − s_j where the drops are in the same order, δ_i ≥ δ_j, and
    −(s_i − s_j) where they are not.

    Args:
        relevance: s, of the groups, the largest first, [..., groups].
        drops: δ, what the probability loses without each group, [..., groups].
    """
    first, second = np.triu_indices(relevance.shape[-1], 1)
    difference = (relevance[..., first] - relevance[..., second]).astype(np.float64)
    signed = np.where(drops[..., first] >= drops[..., second], difference, -difference)
    with np.errstate(invalid="ignore"):
        return signed.sum(-1) / np.abs(difference).sum(-1)


@dataclass(frozen=True)
class SaCo(Metric):
    """``saco`` – agreement of the relevance of groups of patches with their effect on the probability, in [−1, 1].

    The patches are sorted by the map and divided into groups. One group at a time is replaced by the channel means of
    the image; δ is what the probability of the map's class loses, s the mean of the map in the group. Pairs of groups
    count by their difference in s, see ``saco``. 1 is a map that orders every pair right, a random one has 0 in the
    mean. Undefined for a constant map. Scaling a map or adding a constant changes nothing.

    Source: Wu et al., On the Faithfulness of Vision Transformer Explanations, CVPR 2024 (arXiv 2404.01415). Their code
    leaves number of groups and fill open.

    Options:
        groups: number of groups; never more than there are patches.
    """

    directions: ClassVar[Directions] = DIRECTIONS["saco"]

    groups: int = 10

    def __post_init__(self) -> None:
        if self.groups < 2:
            raise UsageError(f"saco: groups is {self.groups}; it must be at least 2")

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(self.groups * methods + 1)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        groups = min(self.groups, batch.model.anatomy.patches)
        predict, whole = batch.masked_forwards.predict, np.zeros((*batch.class_ids.shape, 1, 1), np.bool_)
        whole = np.repeat(whole, batch.model.anatomy.patches, -1)
        probability = predict("image_mean", whole).probability
        for method, maps in batch.maps.items():
            masks = patch_groups(maps, groups)
            values = maps.reshape(*maps.shape[:2], 1, -1)
            relevance = (values * masks).sum(-1) / masks.sum(-1)
            yield MetricValue(method, "saco", saco(relevance, probability - predict("image_mean", masks).probability))
