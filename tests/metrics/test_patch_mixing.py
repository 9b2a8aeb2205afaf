"""Copies that are put together from tokens are those that are put together from pixels."""

import numpy as np
import pytest
import torch
from some_batches import compute, make_batch
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import describe
from pipeline.explain.model_state import preserve_model_state
from pipeline.metrics.masked_forward import MaskedForwardCache
from pipeline.metrics.patch_mixing import PixelMixer, TokenMixer, make_patch_mixer, patches_to_pixels
from pipeline.metrics.registry import FAITHFULNESS


def test_patches_become_pixels_and_what_is_left_over_stays() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    found = patches_to_pixels(mask, ((0, 2, 4), (0, 3, 6)), (5, 7))
    assert found.shape == (5, 7)
    assert found[:2, :3].all()
    assert found[2:4, 3:6].all()
    assert found.sum() == 12


def test_tokens_say_what_pixels_say(family: nn.Module) -> None:
    model, anatomy = family, describe(family)
    images, fill = images_for(model), images_for(model, seed=1)
    masks = torch.rand(3, anatomy.patches, generator=torch.Generator().manual_seed(2)) > 0.5
    said = []
    with preserve_model_state(model):
        assert isinstance(make_patch_mixer(model, anatomy), TokenMixer)
        for way in (TokenMixer(model, anatomy), PixelMixer(model, anatomy)):
            whole, other = way.embed(images), way.embed(fill)
            said.append(way.forward(torch.where(way.expand_mask(masks), other, whole)))
    torch.testing.assert_close(said[0], said[1], rtol=0, atol=1e-9)
    assert not model.patch_embed._forward_hooks


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_no_figure_depends_on_the_way(name: str) -> None:
    first, second = (make_batch(small_vit(reg_tokens=2), ("legrad", "random")) for _ in range(2))
    second.model.mixer = PixelMixer(second.model.model, second.model.anatomy)
    tokens, whole = compute(FAITHFULNESS[name], first), compute(FAITHFULNESS[name], second)
    for which, values in tokens.items():
        np.testing.assert_allclose(values, whole[which], rtol=0, atol=1e-9, err_msg=str(which))


def test_patches_that_overlap_are_put_together_from_pixels() -> None:
    model = small_vit()
    anatomy = describe(model)
    model.patch_embed.proj = nn.Conv2d(3, 32, 12, stride=8, padding=2).double()
    assert isinstance(make_patch_mixer(model, anatomy), PixelMixer)


def test_every_forward_of_copies_has_the_same_shape() -> None:
    """What each new shape leaves behind would break up the heap, and memory would grow with the images."""
    model = small_vit()

    shapes = set()

    class Counted(TokenMixer):
        def forward(self, mixed: Tensor) -> Tensor:
            shapes.add(tuple(mixed.shape))
            return super().forward(mixed)

    for count in (1, 2, 3):
        way, images = Counted(model, describe(model)), images_for(model)[:count]
        copies = MaskedForwardCache(
            way, images, np.ones((count, 2), np.int64), lambda kind, like=images: torch.zeros_like(like)
        )
        with preserve_model_state(model):
            copies.predict("mean", np.random.default_rng(0).random((count, 2, 3 * count, 36)) < 0.5)
    assert len(shapes) == 1
