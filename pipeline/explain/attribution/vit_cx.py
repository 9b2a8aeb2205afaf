"""ViT-CX."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.perturbation import PerturbationMethod, interpolation_matrix
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace
from pipeline.utils.random import rng_for

_CHUNK_SIZE = 64
"""Largest number of maps in memory as pixels; changes nothing else."""


@methods.register
@dataclass(frozen=True)
class ViTCX(PerturbationMethod):
    """Masks made of the network's own feature maps, each weighted with its effect on the class probability.

    The D feature maps are the patch tokens before the last attention (``norm1`` output), each resized
    bilinearly to H × W and min–max scaled. Similar maps, by 1 − cosine, are joined by complete linkage until
    clusters are δ apart; the sum of a cluster, min–max scaled, is a mask M_k [H, W], k = 1 … K. Then

    s_k = p_c(x ⊙ M_k + ε_k (1 − M_k)) − p_c(x + ε_k (1 − M_k)) + p_c(x), ε_k ~ N(0, σ²) for each pixel and channel,

    S = 1/K Σ_k s_k M_k / Σ_k' M_k', pixel by pixel, 0 where all masks are 0; E = mean of S over the
    pixels of a patch. x is the normalized image. A constant map becomes 1, which hides nothing: if all are
    constant, there is one mask and S = p_c(x). The authors' code divides 0 by 0 in both cases.

    The noise depends only on key and seed, and masks are ordered by their first feature map, so the order of
    the clustering does not matter. Cost: two forwards for each cluster, whatever the number of classes; the
    number of clusters depends on the network (up to D).

    Resizing is linear and keeps constants, so maps are scaled, compared and summed on the patch grid, and
    only the masks of one chunk are stored as pixels. This is exact.

    Options:
        distance: δ, the largest distance within a cluster.
        noise: σ, standard deviation of the noise.
    """

    base_name = "vit_cx"
    paper = "Xie et al., ViT-CX: Causal Explanation of Vision Transformers, IJCAI 2023"
    cost = "2 · clusters"

    distance: float = 0.1
    noise: float = 0.1

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if self.distance < 0 or self.noise < 0:
            return "distance and noise cannot be negative"
        return super().unsupported(anatomy)

    def explain_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        image, anatomy = trace.images[row], trace.anatomy
        tokens = trace.last_attention.tokens[row, anatomy.patch_tokens].to(image)
        resizing = _Resizing(anatomy.grid, image)
        clusters = _cluster_sums(tokens.T.unflatten(1, anatomy.grid), resizing, self.distance)
        whole = self.values(trace, row, trace.logits[row : row + 1].to(image), classes)
        rng = rng_for(self.random_name, trace.keys[row], trace.seed)
        weighted, mask_sum = image.new_zeros(len(classes), *image.shape[1:]), torch.zeros_like(image[0])
        for chunk in clusters.split(_CHUNK_SIZE):
            pixels = resizing(chunk)
            masks = _min_max_scaled(pixels, pixels)
            noise = torch.from_numpy(rng.standard_normal((len(masks), *image.shape))).to(image)
            noise *= self.noise * (1 - masks[:, None])
            images = torch.cat([image * masks[:, None] + noise, image + noise])
            masked, noisy = self.values(trace, row, trace.predict(images), classes).chunk(2)
            weighted += torch.einsum("mk,mhw->khw", masked - noisy + whole, masks)
            mask_sum += masks.sum(0)
        pixels = torch.where(mask_sum > 0, weighted / mask_sum, 0.0) / len(clusters)
        return trace.patch_means(pixels[None])[0]


class _Resizing:
    """Bilinear resizing of maps from the patch grid to the pixels of an image, as a matrix on each side."""

    def __init__(self, grid: tuple[int, int], image: Tensor) -> None:
        height, width = image.shape[1:]
        self.down, self.across = (
            interpolation_matrix(*side).to(image) for side in ((grid[0], height), (grid[1], width))
        )

    def __call__(self, maps: Tensor) -> Tensor:
        """Resize [m, h, w] → [m, H, W]."""
        return self.down @ maps @ self.across.T

    def products(self, maps: Tensor) -> Tensor:
        """Compute the scalar products [m, m] of the resized maps."""
        gram = (self.down.T @ self.down) @ maps @ (self.across.T @ self.across)
        return maps.flatten(1) @ gram.flatten(1).T


def _cluster_sums(maps: Tensor, resizing: _Resizing, distance: float) -> Tensor:
    """Sum the clusters of feature maps [D, h, w]: [K, h, w], each 0 in its first patch."""
    maps = torch.cat([_min_max_scaled(chunk, resizing(chunk)) for chunk in _shift_to_zero(maps).split(_CHUNK_SIZE)])
    labels = _cluster_labels(resizing.products(maps), distance)
    clusters = torch.tensor(list(dict.fromkeys(labels)))  # in the order of their first maps
    members = (clusters[:, None] == torch.tensor(labels)).to(maps)
    return _shift_to_zero(torch.einsum("kd,dhw->khw", members, maps))


def _shift_to_zero(maps: Tensor) -> Tensor:
    """Subtract the first value: scaling is not changed by it, and a constant map stays exactly constant if resized."""
    return maps - maps[:, :1, :1]


def _min_max_scaled(maps: Tensor, pixels: Tensor) -> Tensor:
    """Scale maps [m, …] such that their pixels [m, H, W] lie in [0, 1]; constant maps become 1."""
    low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 1.0)


def _cluster_labels(products: Tensor, distance: float) -> list[int]:
    """Return the cluster of each of D nonzero vectors from their scalar products [D, D]."""
    if len(products) == 1:
        return [0]
    # They take a quarter of a second, and no other method needs them.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    lengths = products.diagonal().sqrt()
    distances = (1 - products / (lengths[:, None] * lengths)).clamp(min=0).double().cpu().numpy()
    tree = linkage(squareform(distances, checks=False), "complete")
    return fcluster(tree, distance, "distance").tolist()
