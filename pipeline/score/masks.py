"""How well pseudo-masks cover what is really there."""

from collections.abc import Mapping

import numpy as np

from pipeline.label import labels_of
from pipeline.score.truth import Truth
from pipeline.store import Atlas
from schemas.policy import Policy


def mask_iou(atlas: Atlas, policy: Policy, truth: Mapping[str, Truth]) -> float:
    """Mean over the pictures of the IoU of a policy's mask with the union of the true masks, in %.

    A picture whose mask is empty counts as 0; pictures without a map or without true masks do not count.
    """
    overlaps = []
    for tar in atlas.commits:
        for label in labels_of(atlas, tar, policy):
            known = truth.get(label.sample["key"].removeprefix("./"))
            real = known.mask if known is not None else None
            if label.mask is None or real is None:
                continue
            union = (label.mask | real).sum()
            overlaps.append((label.mask & real).sum() / union if union else 0.0)
    return float(100 * np.mean(overlaps)) if overlaps else float("nan")
