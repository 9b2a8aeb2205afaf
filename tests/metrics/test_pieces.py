"""Copies that are put together from tokens are those that are put together from pixels."""

import numpy as np
import pytest
import torch
from some_batches import batch_of, figures
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import describe
from pipeline.explain.model_state import preserve_model_state
from pipeline.metrics.masked_forward import Copies
from pipeline.metrics.patch_mixing import Pixels, Tokens, pieces, pixels
from pipeline.metrics.registry import FAITHFULNESS


def test_patches_become_pixels_and_what_is_left_over_stays() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    found = pixels(mask, (2, 3), (5, 7))
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
        assert isinstance(pieces(model, anatomy), Tokens)
        for way in (Tokens(model, anatomy), Pixels(model, anatomy)):
            whole, other = way.cut(images), way.cut(fill)
            said.append(way.ask(torch.where(way.where(masks), other, whole)))
    torch.testing.assert_close(said[0], said[1], rtol=0, atol=1e-9)
    assert not model.patch_embed._forward_hooks


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_no_figure_depends_on_the_way(name: str) -> None:
    first, second = (batch_of(small_vit(reg_tokens=2), ("legrad", "random")) for _ in range(2))
    second.network.pieces = Pixels(second.network.model, second.network.anatomy)
    tokens, whole = figures(FAITHFULNESS[name], first), figures(FAITHFULNESS[name], second)
    for which, values in tokens.items():
        np.testing.assert_allclose(values, whole[which], rtol=0, atol=1e-9, err_msg=str(which))


def test_patches_that_overlap_are_put_together_from_pixels() -> None:
    model = small_vit()
    anatomy = describe(model)
    model.patch_embed.proj = nn.Conv2d(3, 32, 12, stride=8, padding=2).double()
    assert isinstance(pieces(model, anatomy), Pixels)


def test_every_forward_of_copies_has_the_same_shape() -> None:
    """What each new shape leaves behind would break up the heap, and memory would grow with the images."""
    model = small_vit()

    shapes = set()

    class Counted(Tokens):
        def ask(self, pieces: Tensor) -> Tensor:
            shapes.add(tuple(pieces.shape))
            return super().ask(pieces)

    for count in (1, 2, 3):
        way, images = Counted(model, describe(model)), images_for(model)[:count]
        copies = Copies(way, images, np.ones((count, 2), np.int64), lambda kind, like=images: torch.zeros_like(like))
        with preserve_model_state(model):
            copies.said("mean", np.random.default_rng(0).random((count, 2, 3 * count, 36)) < 0.5)
    assert len(shapes) == 1
