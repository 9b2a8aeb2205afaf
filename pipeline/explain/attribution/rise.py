"""RISE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.attribution.perturbation import PerturbationMethod, interpolation_matrix
from pipeline.explain.network import Network, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods
from pipeline.utils.random import rng_for

_CHUNK_SIZE = 128
"""Largest number of masks in memory as pixels; changes nothing else."""


@methods.register
@dataclass(frozen=True)
class RISE(PerturbationMethod):
    """Mean of random masks, each weighted with the probability of the class on the masked image.

    S = 1/(K p) Σ_k p_c(x ⊙ M_k) M_k, with K masks M_k [H, W] and p_c the probability of the class. A mask is an s × s
    grid of zeros and ones, one with probability p, resized bilinearly to s + 1 cells of ⌈H/s⌉ × ⌈W/s⌉ pixels,
    of which an H × W window at a random shift of less than a cell is taken. x is the normalized image, so hidden
    pixels get the mean color of the dataset, as in the authors' code. E = mean of S over the pixels of a
    patch; S is linear in the masks, so each mask is pooled at once and no pixel map is stored.

    The masks depend only on key and seed, and differ from image to image. Cost: a forward for each mask,
    whatever the number of classes.

    The authors' code uses one set of masks for all images. It also resizes with scikit-image, which
    mirrors the grid at its border, where here the outermost half cell is constant (torch's convention).
    Published settings: 4000 to 8000 masks, 7 or 8 cells, p ½; Transformer Input Sampling compares with p 0.1.

    Options:
        masks: K, number of masks.
        cells: s, rows and columns of a mask's grid.
        keep: p, the fraction of the image that a mask shows on average.
    """

    base_name = "rise"
    paper = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation, BMVC 2018"
    cost = "masks"
    requirement = Requirement.IMAGES

    masks: int = 4000
    cells: int = 8
    keep: float = 0.5

    def unsupported(self, anatomy: Network) -> str | None:
        if self.masks < 1 or self.cells < 1:
            return "it needs at least one mask and one cell"
        if not 0 < self.keep <= 1:
            return f"keep is {self.keep}; it must be above 0 and at most 1"
        return super().unsupported(anatomy)

    def explain_image(self, trace: NetworkTrace, row: int, classes: Tensor) -> Tensor:
        image = trace.images[row]
        cell = [-(-side // self.cells) for side in trace.anatomy.input_size]
        rng = rng_for(self.random_name, trace.keys[row], trace.seed)
        grids = torch.from_numpy(rng.random((self.masks, self.cells, self.cells)) < self.keep).to(image)
        shifts = [torch.from_numpy(rng.integers(0, side, self.masks)).to(image.device) for side in cell]
        resizing = [interpolation_matrix(self.cells, (self.cells + 1) * side).to(image) for side in cell]
        total = image.new_zeros(len(classes), *trace.anatomy.grid)
        for part in torch.arange(self.masks, device=image.device).split(_CHUNK_SIZE):
            down, across = (
                matrix[shift[part, None] + torch.arange(side, device=image.device)]  # the window: [m, side, s]
                for matrix, shift, side in zip(resizing, shifts, trace.anatomy.input_size, strict=True)
            )
            masks = (down @ grids[part] @ across.mT)[:, None]
            values = self.values(trace, row, trace.predict(image * masks), classes)
            pooled = trace.patch_means(masks)[:, 0]
            total += torch.einsum("mk,mhw->khw", values, pooled)
        return total / (self.masks * self.keep)
