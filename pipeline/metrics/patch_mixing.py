"""Composition of an image from the patches of two images, at pixel or at patch-embedding level."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from pipeline.explain import Anatomy


class PatchMixer(Protocol):
    """Representation of images in which patches can be exchanged.

    Models run without autograd, and must be inside ``preserve_model_state``.

    Attributes:
        model: vision transformer.
    """

    model: Any

    def embed(self, images: Tensor) -> Tensor:
        """Return the representation [B, …] of images [B, 3, H, W]."""

    def expand_mask(self, masks: Tensor) -> Tensor:
        """Expand patch masks, bool [M, N], to a shape that broadcasts to the representation."""

    def forward(self, mixed: Tensor) -> Tensor:
        """Return logits [M, C] of a representation [M, …]."""


def make_patch_mixer(model: nn.Module, anatomy: Anatomy) -> PatchMixer:
    """Return a ``TokenMixer`` if each patch is embedded on its own, else a ``PixelMixer``. The logits are the same.

    Args:
        model: vision transformer.
        anatomy: its structure.
    """
    patch_embed: Any = getattr(model, "patch_embed", None)
    if type(patch_embed) is PatchEmbed and patch_embed.proj.kernel_size == patch_embed.proj.stride == anatomy.patch:
        return TokenMixer(model, anatomy)
    return PixelMixer(model, anatomy)


class PixelMixer:
    """Mixer of pixels. Pixels right of and below the patch grid are never replaced."""

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        self.model, self.anatomy = model, anatomy

    def embed(self, images: Tensor) -> Tensor:
        """See ``PatchMixer``."""
        return images

    def expand_mask(self, masks: Tensor) -> Tensor:
        """See ``PatchMixer``: [M, 1, H, W]."""
        anatomy = self.anatomy
        return patches_to_pixels(masks.unflatten(-1, anatomy.grid), anatomy.patch, anatomy.input_size)[:, None]

    @torch.no_grad()
    def forward(self, mixed: Tensor) -> Tensor:
        """See ``PatchMixer``."""
        logits: Tensor = self.model(mixed)
        return logits


class TokenMixer:
    """Mixer of patch embeddings. The embedding is linear in each patch, so it is computed once for each image."""

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        self.model, self.patch_embed = model, model.patch_embed
        parameter = self.patch_embed.proj.weight
        self._placeholder = torch.zeros(1, 3, *anatomy.input_size, dtype=parameter.dtype, device=parameter.device)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """See ``PatchMixer``: [B, N, D] or [B, h, w, D], as the model has them."""
        self._tokens: Tensor = self.patch_embed(images)
        return self._tokens

    def expand_mask(self, masks: Tensor) -> Tensor:
        """See ``PatchMixer``: [M, N, 1] or [M, h, w, 1]."""
        return masks.reshape(len(masks), *self._tokens.shape[1:-1], 1)

    @torch.no_grad()
    def forward(self, mixed: Tensor) -> Tensor:
        """See ``PatchMixer``."""
        with self.patch_embed.register_forward_hook(lambda module, args, output: mixed):
            logits: Tensor = self.model(self._placeholder)
        return logits


def patches_to_pixels(values: Tensor, patch: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Repeat the value of each patch over its pixels: [..., h, w] → [..., H, W].

    Args:
        values: one value for each patch.
        patch: height and width of a patch in pixels.
        size: H and W in pixels; pixels right of and below the patch grid are 0.
    """
    enlarged = values.repeat_interleave(patch[0], -2).repeat_interleave(patch[1], -1)
    height, width = enlarged.shape[-2:]
    return F.pad(enlarged, (0, size[1] - width, 0, size[0] - height))
