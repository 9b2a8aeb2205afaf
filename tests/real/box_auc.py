"""How well the patches of maps separate boxes from the rest of a photo, by class: it shows maps that are inverted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.store import Atlas
from pipeline.utils.bootstrap import percentile_interval, poisson_weights


def box_auc(atlas: Atlas, boxes: Path) -> list[dict[str, Any]]:
    """Compute the area under the ROC curve of the patches of each photo, with those in a box as positives.

    0.5 is a map that knows nothing of the boxes, less one that is high beside them. A patch counts as in a box if its
    center is. Photos that have no patch beside the boxes are left out.

    Args:
        atlas: with maps of the label.
        boxes: COCO file whose file names are the keys of the atlas with an extension.

    Returns:
        For each method, the best first: ``method``, ``auc`` (mean), ``low`` and ``high`` of its 95 % bootstrap
        interval, ``below`` (share of photos below 0.5), ``hot`` (median number of patches above half of the maximum)
        and ``classes``, the mean and ``below`` of each.
    """
    masks = {key: mask for key, mask in _patch_masks(json.loads(boxes.read_text()), atlas).items() if not mask.all()}
    classes = np.array([key.split("/")[0] for key in masks])
    weights = poisson_weights(np.random.default_rng(0), len(masks))
    rows: list[dict[str, Any]] = []
    for method in atlas.methods:
        maps = [atlas.map(key, method) for key in masks]
        areas = np.array([_auc(values, mask) for values, mask in zip(maps, masks.values(), strict=True)])
        low, high = percentile_interval(weights @ areas / weights.sum(1)) or (None, None)
        row = {"method": method, "auc": float(areas.mean()), "low": low, "high": high}
        row |= {"below": float((areas < 0.5).mean()), "hot": float(np.median([(m > 0.5).sum() for m in maps]))}
        row["classes"] = {
            str(name): {"auc": float(of.mean()), "below": float((of < 0.5).mean())}
            for name, of in ((name, areas[classes == name]) for name in np.unique(classes))
        }
        rows.append(row)
    return sorted(rows, key=lambda row: -row["auc"])


def _patch_masks(truth: Mapping[str, Any], atlas: Atlas) -> dict[str, NDArray[np.bool_]]:
    """Return for each image which patches have their center in a box, bool [h, w]."""
    files = {image["id"]: image for image in truth["images"]}
    masks: dict[str, NDArray[np.bool_]] = {}
    for box in truth["annotations"]:
        image = files[box["image_id"]]
        key = image["file_name"].rsplit(".", 1)[0]
        height, width = atlas.map(key, atlas.methods[0]).shape
        left, top, box_width, box_height = box["bbox"]
        x = (np.arange(width) + 0.5) / width * image["width"]
        y = (np.arange(height) + 0.5) / height * image["height"]
        inside = ((y >= top) & (y < top + box_height))[:, None] & ((x >= left) & (x < left + box_width))
        masks[key] = masks.get(key, False) | inside
    return masks


def _auc(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Compute it by the ranks, ties at their mean (Mann and Whitney 1947)."""
    ranks, inside = rankdata(values), mask.ravel()
    positives, negatives = inside.sum(), (~inside).sum()
    return float((ranks.ravel()[inside].sum() - positives * (positives + 1) / 2) / (positives * negatives))
