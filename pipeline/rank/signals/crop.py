"""Crop: whether the parts of the image that a map has high are those in which the network finds the class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.explain import Network
from pipeline.explain.readout import class_log_probabilities
from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import Signal, SignalValue
from pipeline.utils.ranks import center_ranks, correlate


@dataclass(frozen=True)
class Crop(Signal):
    """Rank correlation, over windows of the image, of the sum of a map with the probability of the class in a crop.

    Windows have half the height and width of the image and are enlarged to its size: crops are what networks are
    trained on, and nothing has to stand for a missing patch. In [−1, 1]; 0 if all sums are equal. The network must
    recognise the explained class in the window in which it is surest of any class.

    Options:
        side: windows of each row and column; fewer where there are fewer patches.
    """

    name = "crop"
    title = "rank correlation of the map with the probability of the class in crops"
    checked = "the crop that it is surest of"

    side: int = 5

    def is_defined(self, anatomy: Network) -> bool:
        return min(anatomy.grid) >= 2

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(self.side**2)

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        grid = batch.model.anatomy.grid
        height, width = (length // 2 for length in grid)
        rows, columns = (
            np.unique(np.linspace(0, length - length // 2, self.side).round().astype(int)).tolist() for length in grid
        )
        corners = [(row, column) for row in rows for column in columns]
        probabilities, surest = _predict(batch, corners, (height, width))
        expected = center_ranks(probabilities)
        for method, maps in batch.maps.items():
            sums = [maps[:, 0, row : row + height, column : column + width].sum((1, 2)) for row, column in corners]
            # Sums of equal values in another order are equal.
            yield SignalValue(method, correlate(center_ranks(np.stack(sums, 1).round(9)), expected), surest)


@torch.no_grad()
def _predict(
    batch: MetricBatch, corners: list[tuple[int, int]], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Predict for windows of the images.

    Args:
        batch: the images.
        corners: row and column of the first patch of each window.
        size: height and width of a window in patches.

    Returns:
        Probability of the explained class, float64 [B, windows]; and the class of the largest probability of all
        classes and windows, int64 [B].
    """
    (down, across), images = batch.model.anatomy.cell_edges, batch.images
    class_ids = torch.from_numpy(batch.class_ids).to(images.device)
    explained, best, classes = [], [], []
    for row, column in corners:
        crop = images[:, :, down[row] : down[row + size[0]], across[column] : across[column + size[1]]]
        enlarged = F.interpolate(crop, size=images.shape[2:], mode="bilinear", align_corners=False)
        log_probabilities = class_log_probabilities(batch.model.model, batch.model.model(enlarged).double())
        explained.append(log_probabilities.gather(1, class_ids)[:, 0].exp().cpu().numpy())
        largest, class_of_largest = log_probabilities.max(1)
        best.append(largest.cpu().numpy())
        classes.append(class_of_largest.cpu().numpy())
    surest = np.argmax(best, axis=0)
    return np.stack(explained, 1), np.stack(classes, 1)[np.arange(len(images)), surest]
