"""Composition of an image from the patches of two images, at pixel or at patch-embedding level."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from pipeline.explain import Network


class PatchMixer(Protocol):
    """Representation of images in which patches can be exchanged.

    Models run without autograd, and must be inside ``preserve_model_state``.

    Attributes:
        model: the network.
    """

    model: Any

    def embed(self, images: Tensor) -> Tensor:
        """Return the representation [B, …] of images [B, 3, H, W]."""

    def expand_mask(self, masks: Tensor) -> Tensor:
        """Expand patch masks, bool [M, N], to a shape that broadcasts to the representation."""

    def forward(self, mixed: Tensor) -> Tensor:
        """Return logits [M, C] of a representation [M, …]."""


def make_patch_mixer(model: nn.Module, anatomy: Network) -> PatchMixer:
    """Return a ``TokenMixer`` if each patch is embedded on its own, else a ``PixelMixer``. The logits are the same.

    Args:
        model: the network.
        anatomy: its structure.
    """
    patch_embed: Any = getattr(model, "patch_embed", None)
    if type(patch_embed) is PatchEmbed and patch_embed.proj.kernel_size == patch_embed.proj.stride == anatomy.cell_size:
        return TokenMixer(model, anatomy)
    return PixelMixer(model, anatomy)


class PixelMixer:
    """Mixer of pixels. Pixels right of and below the patch grid are never replaced."""

    def __init__(self, model: Any, anatomy: Network) -> None:
        self.model, self.anatomy = model, anatomy

    def embed(self, images: Tensor) -> Tensor:
        """See ``PatchMixer``."""
        return images

    def expand_mask(self, masks: Tensor) -> Tensor:
        """See ``PatchMixer``: [M, 1, H, W]."""
        anatomy = self.anatomy
        return patches_to_pixels(masks.unflatten(-1, anatomy.grid), anatomy.cell_edges, anatomy.input_size)[:, None]

    @torch.no_grad()
    def forward(self, mixed: Tensor) -> Tensor:
        """See ``PatchMixer``."""
        logits: Tensor = self.model(mixed)
        return logits


class TokenMixer:
    """Mixer of patch embeddings. The embedding is linear in each patch, so it is computed once for each image."""

    def __init__(self, model: Any, anatomy: Network) -> None:
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


def patches_to_pixels(values: Tensor, edges: tuple[tuple[int, ...], tuple[int, ...]], size: tuple[int, int]) -> Tensor:
    """Repeat the value of each patch over its pixels: [..., h, w] → [..., H, W].

    Args:
        values: one value for each patch.
        edges: pixel rows and columns between which the patches lie, see ``Network.cell_edges``.
        size: H and W in pixels; pixels right of and below the patch grid are 0.
    """
    heights, widths = (torch.tensor(each, device=values.device).diff() for each in edges)
    enlarged = values.repeat_interleave(heights, -2).repeat_interleave(widths, -1)
    height, width = enlarged.shape[-2:]
    return F.pad(enlarged, (0, size[1] - width, 0, size[0] - height))
