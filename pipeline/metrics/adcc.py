"""ADCC: average drop, coherency and complexity in one number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.metric import Directions, Metric, MetricBatch, MetricCost, MetricValue
from pipeline.metrics.patch_mixing import pixels
from pipeline.metrics.similarity import pearson


def adcc(drop: ArrayLike, coherency: ArrayLike, complexity: ArrayLike) -> NDArray[np.float64]:
    """3 / (1/coherency + 1/(1 − complexity) + 1/(1 − drop)), 0 where a term is; all in [0, 1], of one shape [...].

    Of the means over a data set this is the ADCC of ViT-ReciproCAM's tables; of one image, that of its authors.
    """
    drop, coherency, complexity = (np.asarray(each, np.float64) for each in (drop, coherency, complexity))
    terms = np.stack([coherency, 1 - complexity, 1 - drop])
    with np.errstate(divide="ignore"):
        return 3 / (1 / terms.clip(0)).sum(0)


def drop(whole: ArrayLike, masked: ArrayLike) -> NDArray[np.float64]:
    """max(0, Y − O) / Y of probabilities Y of the images and O of what their maps leave of them."""
    whole, masked = np.asarray(whole, np.float64), np.asarray(masked, np.float64)
    return np.maximum(whole - masked, 0) / whole


def coherency(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """(1 + r) / 2 of two maps [..., h, w], r Pearson's; 0 where one of them is constant, which no map should be."""
    a, b = (each.reshape(*each.shape[:-2], -1) for each in (first, second))
    return np.nan_to_num((1 + pearson(a, b)) / 2)


def complexity(maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """‖m‖₁ / N of maps in [0, 1], [..., h, w]: in [0, 1]."""
    return maps.mean((-2, -1), dtype=np.float64)


@dataclass(frozen=True)
class ADCC(Metric):
    """Average drop, increase, coherency, complexity, and their harmonic mean.

    With the map m in [0, 1], enlarged bilinearly, x_m = x ⊙ m of the normalised image (what is masked becomes the mean
    colour), Y = p_c(x), O = p_c(x_m): ``average_drop`` = max(0, Y − O) / Y, ``increase`` = 1 where O > Y,
    ``coherency`` = (1 + Pearson(map of x_m, m)) / 2, ``complexity`` = mean of m, ``adcc`` as the function of that
    name. Class c is that of the map. Maps are compared on the patch grid, as ViT-ReciproCAM does.

    Source: Poppi et al., Revisiting the Evaluation of Class Activation Mapping, CVPR workshops 2021.
    """

    figures: ClassVar[Directions] = {
        "average_drop": "lower",
        "increase": "higher",
        "coherency": "higher",
        "complexity": "lower",
        "adcc": "higher",
    }

    def cost(self, methods: int, depth: int) -> MetricCost:
        return MetricCost(1, methods)

    def of(self, batch: MetricBatch) -> Iterator[MetricValue]:
        patches = batch.network.anatomy.patches
        shape = (*batch.targets.shape, 1, patches)
        whole = batch.copies.said("mean", np.zeros(shape, bool)).probability[..., 0]
        for method, maps in batch.maps.items():
            masked, again = _masked(batch, method)
            parts = {
                "average_drop": drop(whole, masked),
                "coherency": coherency(again, maps),
                "complexity": complexity(maps),
            }
            for figure, values in parts.items():
                yield MetricValue(method, figure, values)
            yield MetricValue(method, "increase", (masked > whole).astype(np.float64))
            yield MetricValue(method, "adcc", adcc(*parts.values()))


def _masked(batch: MetricBatch, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the images as their maps leave them: probabilities float64 [B, K], and maps [B, K, h, w] of the same method.

    A target that is an earlier one of the same image has the same map, and is not computed again.
    """
    targets, anatomy = batch.targets, batch.network.anatomy
    earlier = (targets[:, :, None] == targets[:, None, :]).argmax(-1)  # [B, K]: where the class stands first
    rows, columns = np.nonzero(earlier == np.arange(targets.shape[1]))
    patches = torch.from_numpy(batch.maps[method][rows, columns]).to(batch.images)
    size = (anatomy.grid[0] * anatomy.patch[0], anatomy.grid[1] * anatomy.patch[1])
    shown = pixels(F.interpolate(patches[:, None], size=size, mode="bilinear"), (1, 1), anatomy.input_size)
    keys, classes = [batch.keys[row] for row in rows], targets[rows, columns]
    found = batch.network.explain(batch.images[rows] * shown, classes[:, None], keys, [method])
    said = found.logits.double().softmax(-1).cpu().numpy()[np.arange(len(rows)), classes]
    place = np.zeros(targets.shape, np.int64)
    place[rows, columns] = np.arange(len(rows))
    place = np.take_along_axis(place, earlier, 1)
    return said[place], found[method][:, 0].cpu().numpy().astype(np.float64)[place]
