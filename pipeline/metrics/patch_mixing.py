"""Pictures cut so that a copy of one, of which some patches are another picture's, is put together from both."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from pipeline.explain import Anatomy


class Pieces(Protocol):
    """A way to cut pictures.

    Networks are asked without a graph, and must be ``undisturbed``.
    """

    def cut(self, images: Tensor) -> Tensor:
        """Pieces of images [B, 3, H, W], in whatever shape [B, …]."""

    def where(self, masks: Tensor) -> Tensor:
        """Of which pieces masks of patches are, bool [M, N]: bool, broadcastable to pieces."""

    def ask(self, pieces: Tensor) -> Tensor:
        """Logits [M, C] of what pieces [M, …] make."""


def pieces(model: nn.Module, anatomy: Anatomy) -> Pieces:
    """Tokens where each patch becomes one by itself, else pixels. What the network says is the same."""
    embed: Any = getattr(model, "patch_embed", None)
    if type(embed) is PatchEmbed and embed.proj.kernel_size == embed.proj.stride == anatomy.patch:
        return Tokens(model, anatomy)
    return Pixels(model, anatomy)


class Pixels:
    """Pictures as they are; what is left over at their right and lower edge is always the first picture's."""

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        self.model, self.anatomy = model, anatomy

    def cut(self, images: Tensor) -> Tensor:
        """See ``Pieces``."""
        return images

    def where(self, masks: Tensor) -> Tensor:
        """See ``Pieces``: [M, 1, H, W]."""
        anatomy = self.anatomy
        return pixels(masks.unflatten(-1, anatomy.grid), anatomy.patch, anatomy.input_size)[:, None]

    @torch.no_grad()
    def ask(self, pieces: Tensor) -> Tensor:
        """See ``Pieces``."""
        logits: Tensor = self.model(pieces)
        return logits


class Tokens:
    """Pictures behind the patch embedding, a linear map of each patch: no copy has to go through it again."""

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        self.model, self.embed = model, model.patch_embed
        parameter = self.embed.proj.weight
        self._any = torch.zeros(1, 3, *anatomy.input_size, dtype=parameter.dtype, device=parameter.device)

    @torch.no_grad()
    def cut(self, images: Tensor) -> Tensor:
        """See ``Pieces``: [B, N, D] or [B, h, w, D], as the network has them."""
        self._tokens: Tensor = self.embed(images)
        return self._tokens

    def where(self, masks: Tensor) -> Tensor:
        """See ``Pieces``: [M, N, 1] or [M, h, w, 1]."""
        return masks.reshape(len(masks), *self._tokens.shape[1:-1], 1)

    @torch.no_grad()
    def ask(self, pieces: Tensor) -> Tensor:
        """See ``Pieces``."""
        with self.embed.register_forward_hook(lambda module, args, output: pieces):
            logits: Tensor = self.model(self._any)
        return logits


def pixels(masks: Tensor, patch: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Patches as pixels: [..., h, w] → [..., H, W]; what is left over at the right and lower edge is 0."""
    enlarged = masks.repeat_interleave(patch[0], -2).repeat_interleave(patch[1], -1)
    height, width = enlarged.shape[-2:]
    return F.pad(enlarged, (0, size[1] - width, 0, size[0] - height))
