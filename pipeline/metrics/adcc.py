"""ADCC: average drop, coherency and complexity in one number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from pipeline.explain.readout import class_probabilities
from pipeline.metrics.metric import Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.similarity import pearson
from schemas.metrics import DIRECTIONS, Directions


def adcc(drop: ArrayLike, coherency: ArrayLike, complexity: ArrayLike) -> NDArray[np.float64]:
    """Return 3 / (1/coherency + 1/(1 − complexity) + 1/(1 − drop)): float64 [...], 0 where a denominator is 0.

    For means over a dataset this is the ADCC of ViT-ReciproCAM's tables; for one image, that of its authors.

    Args:
        drop: average drop, in [0, 1], [...].
        coherency: in [0, 1], [...].
        complexity: in [0, 1], [...].
    """
    drop, coherency, complexity = (np.asarray(values, np.float64) for values in (drop, coherency, complexity))
    terms = np.stack([coherency, 1 - complexity, 1 - drop])
    with np.errstate(divide="ignore"):
        return 3 / (1 / terms.clip(0)).sum(0)


def average_drop(probability: ArrayLike, masked: ArrayLike) -> NDArray[np.float64]:
    """Return max(0, Y − O) / Y: float64 [...].

    Args:
        probability: Y, probabilities of the images, [...].
        masked: O, probabilities of the images multiplied by their maps, [...].
    """
    probability, masked = np.asarray(probability, np.float64), np.asarray(masked, np.float64)
    return np.maximum(probability - masked, 0) / probability


def coherency(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (1 + r) / 2 with Pearson's r: float64 [...], 0 where a map is constant, which no map should be.

    Args:
        first: maps [..., h, w].
        second: maps [..., h, w].
    """
    a, b = (maps.reshape(*maps.shape[:-2], -1) for maps in (first, second))
    return np.nan_to_num((1 + pearson(a, b)) / 2)


def complexity(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ‖m‖₁ / N in [0, 1], float64 [...], of maps m in [0, 1], [..., h, w]."""
    return maps.mean((-2, -1), dtype=np.float64)


@dataclass(frozen=True)
class ADCC(Metric):
    """Average drop, increase, coherency, complexity, and their harmonic mean.

    With the map m in [0, 1], upsampled bilinearly, x_m = x ⊙ m of the normalized image (masked pixels become the mean
    color), Y = p_c(x), O = p_c(x_m): ``average_drop`` = max(0, Y − O) / Y, ``increase`` = 1 where O > Y,
    ``coherency`` = (1 + Pearson(map of x_m, m)) / 2, ``complexity`` = mean of m, ``adcc`` as the function of that
    name. Class c is that of the map. Maps are compared on the patch grid, as ViT-ReciproCAM does.

    Source: Poppi et al., Revisiting the Evaluation of Class Activation Mapping, CVPR workshops 2021.
    """

    directions: ClassVar[Directions] = DIRECTIONS["adcc"]

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(1 + 2 * methods, methods)  # the forward of a single map, with its graph, counts as two

    def compute(self, batch: MetricBatch) -> Iterator[MetricValue]:
        shape = (*batch.class_ids.shape, 1, batch.model.anatomy.patches)
        probability = batch.masked_forwards.predict("mean", np.zeros(shape, bool)).probability[..., 0]
        for method, maps in batch.maps.items():
            masked, masked_maps = _explain_masked(batch, method)
            parts = {
                "average_drop": average_drop(probability, masked),
                "coherency": coherency(masked_maps, maps),
                "complexity": complexity(maps),
            }
            for name, values in parts.items():
                yield MetricValue(method, name, values)
            yield MetricValue(method, "increase", (masked > probability).astype(np.float64))
            yield MetricValue(method, "adcc", adcc(*parts.values()))


def _explain_masked(batch: MetricBatch, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities [B, K] and maps [B, K, h, w] of the images multiplied by their maps.

    A class id that repeats an earlier one of the same image has the same map, and is not computed again.
    """
    class_ids, anatomy = batch.class_ids, batch.model.anatomy
    first_column = (class_ids[:, :, None] == class_ids[:, None, :]).argmax(-1)  # [B, K]
    rows, columns = np.nonzero(first_column == np.arange(class_ids.shape[1]))
    maps = torch.from_numpy(batch.maps[method][rows, columns]).to(batch.images)
    size = (anatomy.cell_edges[0][-1], anatomy.cell_edges[1][-1])
    upsampled = F.interpolate(maps[:, None], size=size, mode="bilinear")
    below, right = (whole - covered for whole, covered in zip(anatomy.input_size, size, strict=True))
    masked_images = batch.images[rows] * F.pad(upsampled, (0, right, 0, below))
    keys, classes = [batch.keys[row] for row in rows], class_ids[rows, columns]
    explained = batch.model.explain(masked_images, classes[:, None], keys, [method])
    probabilities = class_probabilities(batch.model.model, explained.logits.double())
    probability = probabilities.cpu().numpy()[np.arange(len(rows)), classes]
    index = np.zeros(class_ids.shape, np.int64)
    index[rows, columns] = np.arange(len(rows))
    index = np.take_along_axis(index, first_column, 1)
    return probability[index], explained[method][:, 0].cpu().numpy().astype(np.float64)[index]
