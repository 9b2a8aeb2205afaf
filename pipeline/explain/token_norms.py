"""Norms of tokens, by which patches that hold artefacts are found."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.explain.attention_capture import upcast
from schemas.token_norms import TokenNorms

MAD_FACTOR = 8 * 1.4826
"""Deviations above the median from which a norm is an outlier: 8 standard deviations, if norms were normal."""


@torch.no_grad()
def token_norms(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the Euclidean norm of every token after every block: [B, L, n], at least float32, prefix tokens first.

    Args:
        model: vision transformer of timm, in evaluation mode.
        images: [B, 3, H, W], preprocessed.
    """
    norms: list[Tensor] = []
    parts: Any = model
    with ExitStack() as stack:
        for block in parts.blocks:
            stack.enter_context(
                block.register_forward_hook(lambda _, __, output: norms.append(upcast(output).norm(dim=-1)))
            )
        model(images)
    return torch.stack(norms, 1)


def outlier_thresholds(norms: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the norm above which a patch token is an outlier: float64 [L].

    Median + 8 · 1.4826 · MAD over all patches of all images, MAD the median absolute deviation: robust against a share
    of outliers below a half, and without a setting for the network.

    Args:
        norms: of patch tokens, [B, L, N].
    """
    exact = norms.astype(np.float64)
    median = np.median(exact, axis=(0, 2))
    thresholds: NDArray[np.float64] = median + MAD_FACTOR * np.median(np.abs(exact - median[:, None]), axis=(0, 2))
    return thresholds


def summarize_norms(norms: NDArray[np.floating], threshold: float | None = None) -> TokenNorms | None:
    """Summarize norms by block. Images with a norm that is not finite are left out; None if none is left.

    Args:
        norms: of patch tokens, [B, L, N].
        threshold: norm above which a token counts as outlier; None takes ``outlier_thresholds`` of each block.
    """
    norms = norms[np.isfinite(norms).all((1, 2))]
    if not norms.size:
        return None
    thresholds = outlier_thresholds(norms) if threshold is None else np.full(norms.shape[1], float(threshold))
    outliers = norms > thresholds[:, None]
    return TokenNorms(
        images=len(norms),
        patches=norms.shape[2],
        median=tuple(np.median(norms.astype(np.float64), axis=(0, 2)).tolist()),
        largest=tuple(norms.astype(np.float64).max((0, 2)).tolist()),
        threshold=tuple(thresholds.tolist()),
        outliers=tuple(outliers.sum((0, 2)).tolist()),
        images_with_outliers=tuple(outliers.any(2).sum(0).tolist()),
    )
