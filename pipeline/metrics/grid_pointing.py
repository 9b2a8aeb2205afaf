"""Grid pointing game: whether the map of a class lies on its cell of a mosaic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from schemas.errors import UsageError
from schemas.metrics import DIRECTIONS, Directions


def make_mosaic(images: Tensor, side: int) -> Tensor:
    """Compose images, each made smaller by the mean over areas: [side², 3, H, W] → [3, H, W], row by row."""
    rows, columns = ([size * cell // side for cell in range(side + 1)] for size in images.shape[2:])
    mosaic = torch.empty_like(images[0])
    for place, image in enumerate(images):
        row, column = divmod(place, side)
        cell = mosaic[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
        cell[:] = F.interpolate(image[None], size=cell.shape[1:], mode="area")[0]
    return mosaic


def cell_shares(maps: NDArray[np.floating], side: int) -> NDArray[np.float64]:
    """Compute the share of the positive values of maps in each cell, row by row: float64 [..., side²].

    Patches on the border of two cells count for both by area. 0 in every cell of a map without positive values.

    Args:
        maps: float [..., h, w], raw: a map that is scaled to begin at 0 has the least of its values everywhere.
        side: cells of each row and column.
    """
    positive = np.maximum(maps, 0).astype(np.float64)
    down, across = (_overlap(length, side) for length in maps.shape[-2:])
    cells = np.einsum("ry,...yx,cx->...rc", down, positive, across).reshape(*maps.shape[:-2], side**2)
    total = positive.sum((-2, -1))[..., None]
    return np.divide(cells, total, out=np.zeros_like(cells), where=total > 0)


def _overlap(length: int, side: int) -> NDArray[np.float64]:
    """Compute the part of each patch that lies in each cell: [side, length]."""
    edges = np.arange(side + 1) * length / side
    patches = np.arange(length)
    overlap: NDArray[np.float64] = np.minimum(edges[1:, None], patches + 1) - np.maximum(edges[:-1, None], patches)
    return overlap.clip(0)


def group_by_class(class_ids: Sequence[int], size: int) -> list[list[int]]:
    """Put images into groups of different classes, each into the first that lacks its class; full groups only.

    Args:
        class_ids: class of each image.
        size: images of a group.
    """
    groups: list[list[int]] = []
    for image, class_id in enumerate(class_ids):
        open_groups = (group for group in groups if len(group) < size)
        fitting = (group for group in open_groups if class_id not in {class_ids[other] for other in group})
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(image)
    return [group for group in groups if len(group) == size]


@dataclass(frozen=True)
class GridPointing(Metric):
    """``grid_pointing`` – share of the positive relevance of a class on its own cell of a mosaic, in [0, 1].

    Mosaics are made of images of the same batch, of different classes, each used once and made smaller by area; the
    network and its number of tokens stay the same. Every method explains the classes of all cells; maps are raw.
    Without positive values the share is 0. A map that does not depend on the class has the mean 1 / side².

    Undefined where the network does not see what is in the mosaic: unless the classes of all cells are among the
    2 side² largest logits, of fewer classes than 8 side² among a quarter of them, at least side². Undefined as well for
    images that are left over, since no others of the batch have other classes.

    Source: Böhle et al., Convolutional Dynamic Alignment Networks, CVPR 2021; Rao et al., CVPR 2022, who enlarge the
    network's input instead, which changes a vision transformer.

    Options:
        side: cells of each row and column.
    """

    directions: ClassVar[Directions] = DIRECTIONS["grid_pointing"]

    side: int = 2

    def __post_init__(self) -> None:
        if self.side < 2:
            raise UsageError(f"grid_pointing: side is {self.side}; it must be at least 2")

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(0, methods)

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        values = {method: np.full(batch.class_ids.shape, np.nan) for method in batch.maps}
        for target in range(batch.class_ids.shape[1]):
            class_ids = batch.class_ids[:, target]
            groups = np.array(group_by_class(class_ids.tolist(), self.side**2), np.int64)
            if not len(groups):
                continue
            mosaics = torch.stack([make_mosaic(batch.images[torch.from_numpy(group)], self.side) for group in groups])
            keys = [" ".join(batch.keys[image] for image in group) for group in groups]
            maps = batch.model.explain(mosaics, class_ids[groups], keys, list(batch.maps))
            seen = self._seen(maps.logits.double().cpu().numpy(), class_ids[groups])
            for method, values_of_method in values.items():
                shares = cell_shares(maps[method].double().cpu().numpy(), self.side)  # [M, side², side²]
                own = np.einsum("mkk->mk", shares)
                values_of_method[groups[seen], target] = own[seen]
        for method, values_of_method in values.items():
            yield MetricValue(method, "grid_pointing", values_of_method)

    def _seen(self, logits: NDArray[np.float64], class_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return in which mosaics the network sees all classes: bool [M].

        Args:
            logits: [M, C].
            class_ids: int64 [M, side²].
        """
        cells, classes = self.side**2, logits.shape[1]
        limit = max(cells, min(2 * cells, classes // 4))
        own = np.take_along_axis(logits, class_ids, 1)
        ranks = (logits[:, None] > own[..., None]).sum(-1)
        seen: NDArray[np.bool_] = (ranks < limit).all(1)
        return seen
