"""Transformer input sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.perturbation import PerturbationMethod
from pipeline.explain.capture import Capture
from pipeline.explain.registry import methods
from pipeline.explain.trace import Trace
from pipeline.utils.random import rng_for

_CHUNK_SIZE = 16384
"""Tokens of one chunk of sampled copies; limits memory, changes nothing else."""

_MAX_ITERATIONS = 100
"""Maximum number of k-means iterations; it mostly converges much earlier."""


@methods.register
@dataclass(frozen=True)
class TiS(PerturbationMethod):
    """Mean probability of the class over those samples of the patches that contain the patch.

    The patch tokens of all L block outputs are L · D feature maps of N values; k-means groups them to K
    centroids. Sample k keeps the ⌊keep · N⌋ patches where centroid k is greatest, m_ki = 1. The other tokens
    are removed from the sequence after the position embedding, prefix tokens stay, and the rest of the network
    runs on the remaining tokens: s_k = softmax(logits)_c. E_i = Σ_k s_k m_ki / Σ_k m_ki, 0 for a patch never kept.

    K-means: Lloyd's algorithm in Euclidean distance, from K different feature maps that depend only on
    key and seed, until nothing changes or for 100 iterations; an empty cluster keeps its centroid. There are
    never more centroids than feature maps. The authors' code chooses the first centroids with
    replacement, stops by a tolerance, and sets an empty cluster's centroid to zero, whose sample is arbitrary.
    It assumes the class token as the only prefix token, and divides 0 by 0 for a patch never kept.

    Not defined where positions belong to the whole grid (rotary, relative). Cost: a forward of keep · N
    tokens for each sample, whatever the number of classes.

    Options:
        masks: K, number of samples.
        keep: fraction of the patches in each sample, at least one patch.
    """

    base_name = "tis"
    paper = "Englebert et al., Explaining through Transformer Input Sampling, ICCV Workshops 2023"
    cost = "≈masks · keep"

    masks: int = 1024
    keep: float = 0.5

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.TOKENS

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if anatomy.positions != "absolute":
            return f"its {anatomy.positions} positions belong to the whole grid, so patches cannot be removed"
        if self.masks < 1:
            return "it needs at least one sample"
        if not 0 < self.keep <= 1:
            return f"keep is {self.keep}; it must be above 0 and at most 1"
        return super().unsupported(anatomy)

    def explain_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        anatomy, image = trace.anatomy, trace.images[row]
        outputs = [trace.block_output(block)[row, anatomy.patch_tokens] for block in range(anatomy.depth)]
        features = torch.cat(outputs, 1).T.to(image)
        rng = rng_for(self.random_name, trace.keys[row], trace.seed)
        first = rng.choice(len(features), min(self.masks, len(features)), replace=False)
        centroids = _k_means(features, features[torch.from_numpy(first).to(image.device)])
        count = max(1, int(self.keep * anatomy.patches))
        patches = centroids.argsort(dim=1, descending=True, stable=True)[:, :count]
        scores = self.values(trace, row, _sample_logits(trace, image, patches), classes)
        samples = torch.zeros_like(centroids).scatter(1, patches, 1.0)
        counts = samples.sum(0)
        return trace.to_grid(torch.where(counts > 0, scores.T @ samples / counts, 0.0)[None])[0]


def _k_means(rows: Tensor, centroids: Tensor) -> Tensor:
    """Compute centroids [K, N] of rows [R, N] by Lloyd's algorithm from the given centroids."""
    indices = torch.arange(len(centroids), device=rows.device)[:, None]
    nearest = torch.full_like(rows[:, 0], -1, dtype=torch.int64)
    for _ in range(_MAX_ITERATIONS):
        previous, nearest = nearest, (centroids.square().sum(1) - 2 * rows @ centroids.T).argmin(1)
        if torch.equal(previous, nearest):
            break
        members = (nearest == indices).to(rows)
        size = members.sum(1, keepdim=True)
        centroids = torch.where(size > 0, members @ rows / size, centroids)
    return centroids


def _sample_logits(trace: Trace, image: Tensor, patches: Tensor) -> Tensor:
    """Compute the logits [K, C] of samples of an image.

    Args:
        trace: a recorded forward.
        image: [3, H, W].
        patches: int64 [K, count], indices of the patches in each sample.
    """
    model, places = trace.model, trace.anatomy.patch_tokens
    every = torch.arange(trace.anatomy.tokens, device=patches.device).expand(len(patches), -1)
    tokens = torch.cat([every[:, : places.start], places.start + patches, every[:, places.stop :]], 1)
    logits = []
    for chunk in tokens.split(max(1, _CHUNK_SIZE // tokens.shape[1])):
        # The image is embedded once; before the first block it becomes one copy for each sample.
        with (
            model.blocks[0].register_forward_pre_hook(lambda _, args, chunk=chunk: (args[0][0, chunk], *args[1:])),
            torch.no_grad(),
            trace.autocast(),
        ):
            logits.append(model(image[None]).to(image))
    return torch.cat(logits)
