"""ViT-CX."""

from dataclasses import dataclass

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.perturbation import PerturbationMethod, interpolation_matrix
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace
from pipeline.utils.random import rng_for

_MAPS_AT_ONCE = 64
"""Maps that are held as pixels at a time; bounds memory, changes nothing else."""


@methods.register
@dataclass(frozen=True)
class ViTCX(PerturbationMethod):
    """Masks made of the network's own feature maps, each weighted with what showing it does to the class.

    The D feature maps are the patch tokens in front of the last attention (``norm1`` output), each resized
    bilinearly to H × W and min–max scaled. Those alike, by 1 − cosine, are joined by complete linkage until
    clusters are δ apart; the sum of a cluster, min–max scaled, is a mask M_k [H, W], k = 1 … K. Then

    s_k = p_c(x ⊙ M_k + ε_k (1 − M_k)) − p_c(x + ε_k (1 − M_k)) + p_c(x), ε_k ~ N(0, σ²) for each pixel and channel,

    S = 1/K Σ_k s_k M_k / Σ_k' M_k', pixel by pixel, 0 where no mask shows anything; E = mean of S over the
    pixels of a patch. x is the normalised image. A constant map becomes 1, which hides nothing: if all are
    constant, there is one mask and S = p_c(x). The authors' code divides 0 by 0 in both cases.

    The noise depends on key and seed alone, and a mask's number is that of its first feature map, so the
    order that the clustering comes in does not matter. Cost: two forwards for each cluster, whatever the
    number of classes; how many there are is the network's affair (up to D).

    Resizing is linear and keeps constants, so maps are scaled, compared and summed on the patch grid, and
    only the masks of one chunk are held as pixels. This is exact.

    Options:
        distance: δ, the greatest distance within a cluster.
        noise: σ.
    """

    base_name = "vit_cx"
    paper = "Xie et al., ViT-CX: Causal Explanation of Vision Transformers, IJCAI 2023"
    cost = "2 · clusters"

    distance: float = 0.1
    noise: float = 0.1

    def unsupported(self, anatomy: Anatomy) -> str | None:
        return None if self.distance >= 0 and self.noise >= 0 else "distance and noise cannot be negative"

    def explain_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        image, anatomy = trace.images[row], trace.anatomy
        tokens = trace.last.tokens[row, anatomy.prefix_tokens :].to(image)
        resizing = _Resizing(anatomy.grid, image)
        groups = _clustered(tokens.T.unflatten(1, anatomy.grid), resizing, self.distance)
        plain = trace.logits[row].to(image).softmax(-1)[classes]
        drawn = rng_for(self.name, trace.keys[row], trace.seed)
        weighted, shown = image.new_zeros(len(classes), *image.shape[1:]), torch.zeros_like(image[0])
        for part in groups.split(_MAPS_AT_ONCE):
            pixels = resizing(part)
            masks = _scaled(pixels, pixels)
            noise = torch.from_numpy(drawn.standard_normal((len(masks), *image.shape))).to(image)
            noise *= self.noise * (1 - masks[:, None])
            images = torch.cat([image * masks[:, None] + noise, image + noise])
            masked, noisy = trace.predict(images).softmax(-1)[:, classes].chunk(2)
            weighted += torch.einsum("mk,mhw->khw", masked - noisy + plain, masks)
            shown += masks.sum(0)
        pixels = torch.where(shown > 0, weighted / shown, 0.0) / len(groups)
        return trace.patch_means(pixels[None])[0]


class _Resizing:
    """Bilinear resizing of maps from the patch grid to the pixels of an image: a matrix on either side."""

    def __init__(self, grid: tuple[int, int], image: Tensor) -> None:
        height, width = image.shape[1:]
        self.down, self.across = (
            interpolation_matrix(*side).to(image) for side in ((grid[0], height), (grid[1], width))
        )

    def __call__(self, maps: Tensor) -> Tensor:
        """[m, h, w] → [m, H, W]."""
        return self.down @ maps @ self.across.T

    def products(self, maps: Tensor) -> Tensor:
        """Scalar products [m, m] of the resized maps."""
        other = (self.down.T @ self.down) @ maps @ (self.across.T @ self.across)
        return maps.flatten(1) @ other.flatten(1).T


def _clustered(maps: Tensor, resizing: _Resizing, distance: float) -> Tensor:
    """Sums of the clusters of feature maps [D, h, w]: [K, h, w], each 0 in its first patch."""
    maps = torch.cat([_scaled(part, resizing(part)) for part in _grounded(maps).split(_MAPS_AT_ONCE)])
    labels = _labels(resizing.products(maps), distance)
    names = torch.tensor(list(dict.fromkeys(labels)))  # in the order of their first maps
    members = (names[:, None] == torch.tensor(labels)).to(maps)
    return _grounded(torch.einsum("kd,dhw->khw", members, maps))


def _grounded(maps: Tensor) -> Tensor:
    """Maps less their first value: scaling does not see it, and a constant map stays exactly constant resized."""
    return maps - maps[:, :1, :1]


def _scaled(maps: Tensor, pixels: Tensor) -> Tensor:
    """Maps [m, …] scaled by what brings their pixels [m, H, W] to 0 … 1; constant ones become 1."""
    low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 1.0)


def _labels(products: Tensor, distance: float) -> list[int]:
    """Cluster of each of D vectors, none of them 0, from their scalar products [D, D]."""
    if len(products) == 1:
        return [0]
    lengths = products.diagonal().sqrt()
    distances = (1 - products / (lengths[:, None] * lengths)).clamp(min=0).double().cpu().numpy()
    tree = linkage(squareform(distances, checks=False), "complete")
    return fcluster(tree, distance, "distance").tolist()
