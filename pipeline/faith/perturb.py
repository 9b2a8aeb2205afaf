"""Copies of images with some of their patches replaced, and what the network says of them.

Patches are ranked on the patch grid, where a map has its values: pixels of a map that was enlarged have ties, and
how a sort breaks these decides the score.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from pipeline.explain.seeds import generator

First = Literal["most", "least"]
"""Which patches are replaced first: the most relevant (MoRF) or the least relevant (LeRF)."""
Baseline = Literal["black", "mean", "blur", "noise"]

_AT_ONCE = 64
"""Copies of one forward; bounds memory, changes nothing else."""
_ROUND = 16
"""Their number is rounded up to a multiple: for each new shape a convolution keeps things that break up the heap."""


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


def pixels(masks: Tensor, patch: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Patches as pixels: [..., h, w] → [..., H, W]; what is left over at the right and lower edge is 0."""
    enlarged = masks.repeat_interleave(patch[0], -2).repeat_interleave(patch[1], -1)
    height, width = enlarged.shape[-2:]
    return F.pad(enlarged, (0, size[1] - width, 0, size[0] - height))


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
        predict: logits [M, C] of images [M, 3, H, W].
        images: [B, 3, H, W], normalised.
        targets: int64 [B, K].
        grid, patch: of the network.
        fill: gives a baseline [B, 3, H, W] by its name.
    """

    def __init__(
        self,
        predict: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: NDArray[np.int64],
        grid: tuple[int, int],
        patch: tuple[int, int],
        fill: Callable[[Baseline], Tensor],
    ) -> None:
        self.predict, self.images, self.targets = predict, images, targets
        self.grid, self.patch, self.fill = grid, patch, fill
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
        for first in range(0, len(fresh), _AT_ONCE):
            part = fresh[first : first + _AT_ONCE]
            self._show(kind, [name for name, _ in part], np.stack([masks[place] for _, place in part]))
        log_probability = np.empty(masks.shape[:3])
        top = np.empty(masks.shape[:3], np.int64)
        for place, name in names.items():
            log_probabilities, top[place] = self._said[name]
            log_probability[place] = log_probabilities[place[1]]
        return Said(log_probability, top)

    def _show(self, kind: Baseline, names: list[tuple[int, str, bytes]], masks: NDArray[np.bool_]) -> None:
        more = -len(names) % _ROUND
        rows = [row for row, _, _ in names] + [names[-1][0]] * more
        masks = np.concatenate([masks, masks[-1:].repeat(more, 0)])
        if kind not in self._fills:
            self._fills[kind] = self.fill(kind)
        patches = torch.from_numpy(masks).to(self.images.device).unflatten(-1, self.grid)
        gone = pixels(patches, self.patch, (self.images.shape[2], self.images.shape[3]))[:, None]
        logits = self.predict(torch.where(gone, self._fills[kind][rows], self.images[rows])).double()
        wanted = torch.from_numpy(self.targets[rows]).to(logits.device)
        said = logits.log_softmax(-1).gather(1, wanted).cpu().numpy()
        self._said |= dict(zip(names, zip(said, logits.argmax(1).tolist(), strict=True), strict=False))
