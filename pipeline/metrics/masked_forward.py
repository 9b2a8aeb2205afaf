"""Copies of images with some of their patches replaced, and what the network says of them.

Patches are ranked on the patch grid, where a map has its values: pixels of a map that was enlarged have ties, and
how a sort breaks these decides the score.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from pipeline.metrics.patch_mixing import Pieces
from pipeline.utils.random import generator

First = Literal["most", "least"]
"""Which patches are replaced first: the most relevant (MoRF) or the least relevant (LeRF)."""
Baseline = Literal["black", "mean", "blur", "noise"]

_AT_ONCE = {"cpu": 16, "cuda": 128}
"""Copies of one forward, by the kind of device: on a CPU as many as its cache holds, on a GPU as many as keep it busy.

Always as many, the last ones filled up: what a new shape leaves behind breaks up the heap.
"""


def ranks(maps: NDArray[np.floating], first: First) -> NDArray[np.int64]:
    """The place of each patch in the order of replacement: int64 [..., N], from 0.

    Equal values go by their index in either order, so that a constant map has one order, not two.

    Args:
        maps: [..., h, w].
    """
    values = maps.reshape(*maps.shape[:-2], -1)
    order = np.argsort(-values if first == "most" else values, axis=-1, kind="stable")
    return np.argsort(order, axis=-1)


def replaced(maps: NDArray[np.floating], first: First, number: NDArray[np.int64] | Sequence[int]) -> NDArray[np.bool_]:
    """Which patches are replaced: bool [..., S, N] for maps [..., h, w] and S numbers of patches."""
    chosen: NDArray[np.bool_] = ranks(maps, first)[..., None, :] < np.asarray(number)[:, None]
    return chosen


def baseline(kind: Baseline, images: Tensor, mean: Tensor, std: Tensor, keys: Sequence[str], seed: int) -> Tensor:
    """What patches are replaced with: [B, 3, H, W], normalised.

    ``black`` is 0 before normalising, ``mean`` is 0 after it. ``blur`` is a Gaussian of 11 pixels and σ = 5
    (Petsiuk et al., BMVC 2018). ``noise`` is uniform in [0, 1) before normalising, from key and seed alone.

    Args:
        images: [B, 3, H, W], normalised.
        mean, std: of each channel, [3, 1, 1].
    """
    match kind:
        case "black":
            return (-mean / std).expand_as(images)
        case "mean":
            return torch.zeros_like(images)
        case "blur":
            return gaussian_blur(images, [11, 11], [5.0, 5.0])
        case "noise":
            drawn = [generator("faith noise", key, seed).random(images.shape[1:]) for key in keys]
            return (torch.from_numpy(np.stack(drawn)).to(images) - mean) / std


class Said(NamedTuple):
    """What the network says of copies.

    Attributes:
        log_probability: of the target class, float64 [B, K, S].
        top: the class of the largest logit, int64 [B, K, S].
    """

    log_probability: NDArray[np.float64]
    top: NDArray[np.int64]

    @property
    def probability(self) -> NDArray[np.float64]:
        """Of the target class, float64 [B, K, S]."""
        return np.exp(self.log_probability)


class Copies:
    """Copies of a batch of images. One that was shown once is not shown again, whichever measure asks for it.

    That makes the ends of all curves, and all of a second target that is the first one, cost nothing.

    Args:
        pieces: of the network.
        images: [B, 3, H, W], normalised.
        targets: int64 [B, K].
        fill: gives a baseline [B, 3, H, W] by its name.
    """

    def __init__(
        self, pieces: Pieces, images: Tensor, targets: NDArray[np.int64], fill: Callable[[Baseline], Tensor]
    ) -> None:
        self.pieces, self.targets, self.fill = pieces, targets, fill
        self.device, self.at_once = images.device, _AT_ONCE[images.device.type]
        self._images = pieces.cut(images)
        self._fills: dict[Baseline, Tensor] = {}
        self._said: dict[tuple[int, str, bytes], tuple[NDArray[np.float64], int]] = {}

    def said(self, kind: Baseline, masks: NDArray[np.bool_]) -> Said:
        """What the network says of copies in which masked patches are replaced.

        Args:
            masks: bool [B, K, S, N]. K is that of the targets: what is said is said of the target of each map.
        """
        packed = np.packbits(masks, axis=-1)
        names = {
            place: (place[0], kind if masks[place].any() else "", packed[place].tobytes())
            for place in np.ndindex(*masks.shape[:3])
        }
        fresh = list({name: place for place, name in names.items() if name not in self._said}.items())
        for first in range(0, len(fresh), self.at_once):
            part = fresh[first : first + self.at_once]
            self._show(kind, [name for name, _ in part], np.stack([masks[place] for _, place in part]))
        log_probability = np.empty(masks.shape[:3])
        top = np.empty(masks.shape[:3], np.int64)
        for place, name in names.items():
            log_probabilities, top[place] = self._said[name]
            log_probability[place] = log_probabilities[place[1]]
        return Said(log_probability, top)

    def _show(self, kind: Baseline, names: list[tuple[int, str, bytes]], masks: NDArray[np.bool_]) -> None:
        more = self.at_once - len(names)
        rows = [row for row, _, _ in names] + [names[-1][0]] * more
        masks = np.concatenate([masks, masks[-1:].repeat(more, 0)])
        if kind not in self._fills:
            self._fills[kind] = self.pieces.cut(self.fill(kind))
        gone = self.pieces.where(torch.from_numpy(masks).to(self.device))
        logits = self.pieces.ask(torch.where(gone, self._fills[kind][rows], self._images[rows])).double()
        wanted = torch.from_numpy(self.targets[rows]).to(logits.device)
        said = logits.log_softmax(-1).gather(1, wanted).cpu().numpy()
        self._said |= dict(zip(names, zip(said, logits.argmax(1).tolist(), strict=True), strict=False))
