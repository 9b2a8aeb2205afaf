"""Exchange: whether the class moves to another image with the patches that a map has high."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.explain.readout import class_log_probabilities
from pipeline.metrics.masked_forward import removal_masks
from pipeline.metrics.metric import MetricBatch, MetricCost
from pipeline.rank.signal import NOT_TRIED, Signal, SignalValue


@dataclass(frozen=True)
class Exchange(Signal):
    """Probability of the class in an image of another class that has got the most relevant patches, minus what is left.

    p(other image with the patches) − p(image with the patches of the other in their place), in [−1, 1]. All patches are
    those of images, as in CutMix (Yun et al., ICCV 2019), so nothing has to stand for a missing patch. The other image
    is the next one of the same batch that has another class; without any it is undefined.

    Options:
        share: of the patches that are exchanged.
    """

    name = "exchange"
    title = "probability of the class that the most relevant quarter of the patches takes to another image"
    checked = "an image by a quarter of its patches on another one"

    share: float = 0.25

    def cost(self, methods: int) -> MetricCost:
        return MetricCost(2 * methods)

    def compute(self, batch: MetricBatch) -> Iterator[SignalValue]:
        mixer, partners = batch.model.mixer, _find_partners(batch.class_ids[:, 0])
        if partners is None:
            for method in batch.maps:
                yield SignalValue(method, np.full(len(batch.keys), np.nan), np.full(len(batch.keys), NOT_TRIED))
            return
        own = mixer.embed(batch.images)
        other = own[torch.from_numpy(partners).to(own.device)]
        count = [max(1, round(self.share * batch.model.anatomy.patches))]
        for method, maps in batch.maps.items():
            masks = torch.from_numpy(removal_masks(maps[:, 0], "most", count)[:, 0]).to(own.device)
            moved = mixer.expand_mask(masks)
            received, seen = self._predict(batch, torch.where(moved, own, other))
            left, _ = self._predict(batch, torch.where(moved, other, own))
            yield SignalValue(method, received - left, seen)

    def _predict(self, batch: MetricBatch, mixed: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the probability of the explained class and the class of the largest logit: [B] each."""
        logits = batch.model.mixer.forward(mixed).double()
        class_ids = torch.from_numpy(batch.class_ids).to(logits.device)
        probabilities = class_log_probabilities(batch.model.model, logits).gather(1, class_ids)[:, 0].exp()
        return probabilities.cpu().numpy(), logits.argmax(1).cpu().numpy()


def _find_partners(class_ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the next image of another class, around the batch: int64 [B]; None if all images are of one class."""
    if (class_ids == class_ids[0]).all():
        return None
    count = len(class_ids)
    ahead = (np.arange(count)[:, None] + np.arange(1, count + 1)) % count
    differs = class_ids[ahead] != class_ids[:, None]
    partners: NDArray[np.int64] = ahead[np.arange(count), differs.argmax(1)]
    return partners
