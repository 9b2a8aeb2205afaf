"""Transformer input sampling."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attribution.perturbation import PerturbationMethod
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, Trace
from pipeline.utils.random import rng_for

_TOKENS_AT_ONCE = 16384
"""Tokens of one chunk of sampled copies; bounds its memory, changes nothing else."""

_ROUNDS = 100
"""Of k-means at most; it mostly settles long before."""


@methods.register
@dataclass(frozen=True)
class TiS(PerturbationMethod):
    """Mean probability of the class over samples of the patches, of those samples that a patch is in.

    The patch tokens of all L block outputs are L · D feature maps of N values; k-means joins them to K
    centroids. Sample k keeps the ⌊keep · N⌋ patches where centroid k is greatest, m_ki = 1. The other tokens
    are taken out of the sequence behind the position embedding, prefix tokens stay, and the rest of the network
    runs on what is left: s_k = softmax(logits)_c. E_i = Σ_k s_k m_ki / Σ_k m_ki, 0 for a patch never kept.

    K-means: Lloyd's algorithm in Euclidean distance, from K different feature maps that depend on key and
    seed alone, until nothing changes or 100 rounds are over; an empty cluster keeps its centroid. There are
    never more centroids than feature maps. The authors' code draws the first centroids with replacement,
    stops by a tolerance, and turns an empty cluster's centroid into zeros, whose sample is arbitrary. It
    takes the class token as the only prefix token, and divides 0 by 0 for a patch never kept.

    Not defined where positions belong to the whole grid (rotary, relative). Cost: a forward of keep · N
    tokens for each sample, whatever the number of classes.

    Options:
        masks: K, samples.
        keep: fraction of the patches in each, at least one patch.
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
            return f"its {anatomy.positions} positions belong to the whole grid, so patches cannot be taken out"
        if self.masks < 1:
            return "it needs at least one sample"
        return None if 0 < self.keep <= 1 else f"keep is {self.keep}; it must be above 0 and at most 1"

    def explain_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        anatomy, image = trace.anatomy, trace.images[row]
        outputs = [trace.output(block)[row, anatomy.prefix_tokens :] for block in range(anatomy.depth)]
        features = torch.cat(outputs, 1).T.to(image)
        drawn = rng_for(self.name, trace.keys[row], trace.seed)
        first = drawn.choice(len(features), min(self.masks, len(features)), replace=False)
        centroids = _k_means(features, features[torch.from_numpy(first).to(image.device)])
        count = max(1, int(self.keep * anatomy.patches))
        kept = centroids.argsort(dim=1, descending=True, stable=True)[:, :count]
        scores = _sampled(trace, image, kept).softmax(-1)[:, classes]
        samples = torch.zeros_like(centroids).scatter(1, kept, 1.0)
        times = samples.sum(0)
        return trace.grid(torch.where(times > 0, scores.T @ samples / times, 0.0)[None])[0]


def _k_means(rows: Tensor, centroids: Tensor) -> Tensor:
    """Centroids [K, N] of rows [R, N], by Lloyd's algorithm from the given ones."""
    numbers = torch.arange(len(centroids), device=rows.device)[:, None]
    nearest = torch.full_like(rows[:, 0], -1, dtype=torch.int64)
    for _ in range(_ROUNDS):
        before, nearest = nearest, (centroids.square().sum(1) - 2 * rows @ centroids.T).argmin(1)
        if torch.equal(before, nearest):
            break
        members = (nearest == numbers).to(rows)
        size = members.sum(1, keepdim=True)
        centroids = torch.where(size > 0, members @ rows / size, centroids)
    return centroids


def _sampled(trace: Trace, image: Tensor, kept: Tensor) -> Tensor:
    """Logits [K, C] of an image of which only some patches are left.

    Args:
        kept: int64 [K, count], numbers of the patches in each sample.
    """
    model, prefix = trace.model, trace.anatomy.prefix_tokens
    always = torch.arange(prefix, device=kept.device).expand(len(kept), -1)
    chosen = torch.cat([always, prefix + kept], 1)
    logits = []
    for part in chosen.split(max(1, _TOKENS_AT_ONCE // chosen.shape[1])):
        # The image is embedded once; in front of the first block it becomes as many copies as there are samples.
        with (
            model.blocks[0].register_forward_pre_hook(lambda _, args, part=part: (args[0][0, part], *args[1:])),
            torch.no_grad(),
            trace.network(),
        ):
            logits.append(model(image[None]).to(image))
    return torch.cat(logits)
