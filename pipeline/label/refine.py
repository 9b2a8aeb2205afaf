"""Refinement by the image, of heatmaps and of masks."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.label.sam_checkpoint import hash_checkpoint
from schemas.errors import UsageError
from schemas.policy import Crf, Pamr, Policy, Sam


class Refiner(Protocol):
    """A function from heatmaps and images to sharper heatmaps."""

    def __call__(self, heatmaps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine the heatmaps of one batch.

        Args:
            heatmaps: float32 [B, h, w] on the patch grid, in [0, 1].
            pixels: uint8 [B, 3, H, W], the input of the network.

        Returns:
            float32 [B, H, W] in [0, 1].
        """


def make_refiner(spec: Pamr | Crf) -> Refiner:
    """Return the refiner of a policy.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    if isinstance(spec, Crf):
        from pipeline.label.crf import CrfRefiner  # an extra

        return CrfRefiner(spec)
    from pipeline.label.pamr import PamrRefiner  # torch, which other policies do not need

    return PamrRefiner(spec)


class Segmenter(Protocol):
    """A function from an image and prompts to a mask."""

    def __call__(self, pixels: NDArray[np.uint8], prompts: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
        """Segment one image.

        Args:
            pixels: uint8 [3, height, width], RGB, of the original size.
            prompts: one or more, as ``make_prompts`` makes them.

        Returns:
            bool [height, width], the union over the prompts.
        """


@lru_cache(maxsize=1)  # one for all shards that a process labels
def make_segmenter(spec: Sam) -> Segmenter:
    """Return the segmenter of a policy.

    Raises:
        UsageError: it needs a package that is not installed, or its checkpoint cannot be used or is another.
    """
    from pipeline.label.sam_segmenter import SamSegmenter  # an extra

    check_checkpoint(spec)
    return SamSegmenter(spec.checkpoint)


def check_checkpoint(spec: Sam) -> str:
    """Return the hash of a checkpoint.

    Raises:
        UsageError: the extra is not installed; the folder is no checkpoint that can be used, or another.
    """
    digest = hash_checkpoint(spec.checkpoint)
    if spec.sha256 not in (None, digest):
        raise UsageError(f"{spec.checkpoint}: is {digest}, not the checkpoint of the policy, {spec.sha256}")
    return digest


def pin_checkpoint(policy: Policy) -> Policy:
    """Return a policy with the hash of the checkpoint that it names, if it names one.

    Raises:
        UsageError: see ``check_checkpoint``.
    """
    if not isinstance(policy.refine, Sam):
        return policy
    refine = policy.refine.model_copy(update={"sha256": check_checkpoint(policy.refine)})
    return policy.model_copy(update={"refine": refine})


def compute_address(policy: Policy, address: str | None) -> str | None:
    """Return the Ray cluster on which a policy is applied; None leaves the choice to ``parallel_map``.

    Beside a GPU a segmenter runs on Ray, which gives each process one of its own: processes of this machine would each
    load it on the same one.

    Args:
        policy: how maps become masks.
        address: as the user gave it.
    """
    if address is not None or not isinstance(policy.refine, Sam):
        return address
    from pipeline.label.sam_segmenter import has_gpu

    return "local" if has_gpu() else None
