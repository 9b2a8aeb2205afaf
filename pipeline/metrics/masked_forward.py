"""Predictions for images in which some patches are replaced.

Patches are ranked on the patch grid, where a map has its values. Pixels of an upsampled map have ties, and the order
in which a sort breaks them would decide the score.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from pipeline.explain.readout import class_log_probabilities
from pipeline.metrics.linear_as_convolution import LinearAsConvolution
from pipeline.metrics.patch_mixing import PatchMixer
from pipeline.utils.random import rng_for

RemovalOrder = Literal["most", "least"]
"""Patches that are replaced first: the most relevant (MoRF) or the least relevant (LeRF)."""
Baseline = Literal["black", "mean", "image_mean", "blur", "noise"]
"""Content of replaced patches, see ``make_baseline``."""

_BATCH_SIZE = {"cpu": 16, "cuda": 128}
"""Masked images of one forward, by device type: what a CPU cache holds, what keeps a GPU busy.

Batches are always filled up to this size, because forwards of many different shapes fragment the heap.
"""


def removal_ranks(maps: NDArray[np.floating], order: RemovalOrder) -> NDArray[np.int64]:
    """Return the rank of each patch in the order of removal: int64 [..., N], from 0.

    Equal values go by their index in both orders, so a constant map has the same order in both.

    Args:
        maps: float [..., h, w].
        order: patches that come first.
    """
    values = maps.reshape(*maps.shape[:-2], -1)
    places = np.argsort(-values if order == "most" else values, axis=-1, kind="stable")
    return np.argsort(places, axis=-1)


def removal_masks(
    maps: NDArray[np.floating], order: RemovalOrder, counts: NDArray[np.int64] | Sequence[int]
) -> NDArray[np.bool_]:
    """Return masks of the replaced patches: bool [..., S, N].

    Args:
        maps: float [..., h, w].
        order: patches that are replaced first.
        counts: int [S], numbers of replaced patches.
    """
    masks: NDArray[np.bool_] = removal_ranks(maps, order)[..., None, :] < np.asarray(counts)[:, None]
    return masks


def make_baseline(
    baseline: Baseline, images: Tensor, mean: Tensor, std: Tensor, keys: Sequence[str], seed: int
) -> Tensor:
    """Return the images that patches are replaced from: [B, 3, H, W], normalized.

    ``black`` is 0 before normalization, ``mean`` is 0 after it, ``image_mean`` the means of the image's channels.
    ``blur`` is a Gaussian of 11 pixels and σ = 5 (Petsiuk et al., BMVC 2018). ``noise`` is uniform in [0, 1) before
    normalization, from key and seed alone.

    Args:
        baseline: kind of content.
        images: float [B, 3, H, W], normalized.
        mean: channel means, [3, 1, 1].
        std: channel standard deviations, [3, 1, 1].
        keys: sample keys, which seed the noise.
        seed: further seed of the noise.
    """
    match baseline:
        case "black":
            return (-mean / std).expand_as(images)
        case "mean":
            return torch.zeros_like(images)
        case "image_mean":
            return images.mean((2, 3), keepdim=True).expand_as(images)
        case "blur":
            return gaussian_blur(images, [11, 11], [5.0, 5.0])
        case "noise":
            noise = [rng_for("faith noise", key, seed).random(images.shape[1:]) for key in keys]
            return (torch.from_numpy(np.stack(noise)).to(images) - mean) / std


class Predictions(NamedTuple):
    """Predictions for masked images.

    Attributes:
        log_probability: log probability of the explained class, float64 [B, K, S].
        top: class of the largest logit, int64 [B, K, S].
    """

    log_probability: NDArray[np.float64]
    top: NDArray[np.int64]

    @property
    def probability(self) -> NDArray[np.float64]:
        """Probability of the explained class, float64 [B, K, S]."""
        return np.exp(self.log_probability)


class MaskedForwardCache:
    """Predictions for masked versions of a batch of images. Each is computed once, whichever metric asks for it.

    The ends of all curves, and all points of a second target that equals the first, are therefore computed once.

    Args:
        mixer: composer of images.
        images: float [B, 3, H, W], normalized.
        class_ids: int64 [B, K].
        fill: function from a baseline's name to its images [B, 3, H, W].
    """

    def __init__(
        self, mixer: PatchMixer, images: Tensor, class_ids: NDArray[np.int64], fill: Callable[[Baseline], Tensor]
    ) -> None:
        self.mixer, self.class_ids, self.fill = mixer, class_ids, fill
        self.device, self.batch_size = images.device, _BATCH_SIZE[images.device.type]
        self._images = mixer.embed(images)
        self._fills: dict[Baseline, Tensor] = {}
        self._cache: dict[tuple[int, str, bytes], tuple[NDArray[np.float64], int]] = {}

    def predict(self, baseline: Baseline, masks: NDArray[np.bool_]) -> Predictions:
        """Predict for images whose masked patches are replaced.

        Args:
            baseline: content of replaced patches.
            masks: bool [B, K, S, N], True where a patch is replaced. Masks of the k-th target are predicted for it.
        """
        packed = np.packbits(masks, axis=-1)
        cache_keys = {
            index: (index[0], baseline if masks[index].any() else "", packed[index].tobytes())
            for index in np.ndindex(*masks.shape[:3])
        }
        missing = list({key: index for index, key in cache_keys.items() if key not in self._cache}.items())
        for first in range(0, len(missing), self.batch_size):
            chunk = missing[first : first + self.batch_size]
            self._compute(baseline, [key for key, _ in chunk], np.stack([masks[index] for _, index in chunk]))
        log_probability = np.empty(masks.shape[:3])
        top = np.empty(masks.shape[:3], np.int64)
        for index, key in cache_keys.items():
            log_probabilities, top[index] = self._cache[key]
            log_probability[index] = log_probabilities[index[1]]
        return Predictions(log_probability, top)

    def _compute(self, baseline: Baseline, keys: list[tuple[int, str, bytes]], masks: NDArray[np.bool_]) -> None:
        padding = self.batch_size - len(keys)
        rows = [row for row, _, _ in keys] + [keys[-1][0]] * padding
        masks = np.concatenate([masks, masks[-1:].repeat(padding, 0)])
        if baseline not in self._fills:
            self._fills[baseline] = self.mixer.embed(self.fill(baseline))
        replaced = self.mixer.expand_mask(torch.from_numpy(masks).to(self.device))
        mixed = torch.where(replaced, self._fills[baseline][rows], self._images[rows])
        with LinearAsConvolution():
            logits = self.mixer.forward(mixed).double()
        class_ids = torch.from_numpy(self.class_ids[rows]).to(logits.device)
        log_probabilities = class_log_probabilities(self.mixer.model, logits).gather(1, class_ids).cpu().numpy()
        predictions = zip(log_probabilities, logits.argmax(1).tolist(), strict=True)
        self._cache |= dict(zip(keys, predictions, strict=False))
