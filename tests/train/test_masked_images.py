"""A picture and its mask are cut alike, and a patch is covered by the share that it is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import small_vit

from pipeline.explain import describe
from pipeline.train.masked_images import MASKED, CropWindows, MaskedImagePool, MaskedImages

ANATOMY = describe(small_vit())


def planes(seed: int = 0, side: int = 48) -> torch.Tensor:
    """Blobs of object and of ignored area, 0 … 255."""
    rough = torch.from_numpy(np.random.default_rng(seed).random((3, 2, 6, 6)))
    smooth = F.interpolate(rough, (side, side), mode="bicubic")
    shares = torch.stack([smooth[:, 0] > 0.5, (smooth[:, 1] > 0.7) & (smooth[:, 0] <= 0.5)], 1)
    return shares.float() * 255


def test_a_patch_is_covered_by_the_mean_of_its_known_pixels() -> None:
    blobs = planes()
    covered, ignored = CropWindows.full(3).patch_coverage(blobs, ANATOMY)
    cells = blobs.reshape(3, 2, 6, 8, 6, 8).mean((3, 5)).flatten(2) / 255
    assert torch.allclose(ignored, cells[:, 1], atol=1e-6)
    share = cells[:, 0] / (1 - cells[:, 1]).clamp(min=1e-6)
    assert torch.allclose(covered, share.clamp(0, 1), atol=1e-5)


def test_pixels_beyond_the_patch_grid_belong_to_no_patch() -> None:
    anatomy = describe(small_vit(img_size=50))
    blobs = planes(side=50)
    covered, _ = CropWindows.full(3).patch_coverage(blobs, anatomy)
    cells = blobs[:, :, :48, :48].reshape(3, 2, 6, 8, 6, 8).mean((3, 5)).flatten(2) / 255
    assert torch.allclose(covered, (cells[:, 0] / (1 - cells[:, 1]).clamp(min=1e-6)).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_mask_and_picture_are_cut_alike(mirrored: bool) -> None:
    """The mask painted into the picture, cut there, and taken as the mean over each patch."""
    blobs = planes()
    cut = CropWindows(np.tile([0.25, 0.125, 0.75, 0.875], (3, 1)), np.full(3, mirrored))
    painted = cut.crop(blobs[:, :1].expand(-1, 3, -1, -1), (48, 48))
    covered, _ = cut.patch_coverage(torch.cat([blobs[:, :1], torch.zeros_like(blobs[:, :1])], 1), ANATOMY)
    cells = F.avg_pool2d(painted[:, 0] / 255, 8).flatten(1)
    assert (covered - cells).abs().max() < 0.03
    assert 0.1 < covered.mean() < 0.9


def test_windows_have_the_area_that_is_asked_and_stay_inside() -> None:
    cut = CropWindows.sample(500, 0.35, np.random.default_rng(0))
    low, high = cut.windows[:, :2], cut.windows[:, 2:]
    assert (low >= 0).all()
    assert (high <= 1 + 1e-12).all()
    area = (high - low).prod(1)
    assert 0.35 <= area.min() < 0.4
    assert 0.95 < area.max() <= 1 + 1e-12
    whole = CropWindows.sample(9, 1.0, np.random.default_rng(0))
    assert np.allclose(whole.windows, [[0, 0, 1, 1]], atol=1e-12)
    assert 0.4 < cut.mirrored.mean() < 0.6


def numbered(first: int, count: int) -> MaskedImages:
    labels = np.arange(first, first + count)
    blank = np.zeros((count, 1), np.uint8)
    return MaskedImages(blank, labels, blank, np.full(count, MASKED))


def test_a_pool_gives_each_picture_once_before_any_twice_and_goes_on_from_any_step() -> None:
    pool = MaskedImagePool([numbered(0, 3), numbered(3, 4)])
    assert len(pool) == 7
    drawn = np.concatenate([pool.sample(4, step, (0, 0)).labels for step in range(14)])
    epochs = drawn.reshape(8, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4
    assert (pool.sample(4, 9, (0, 0)).labels == drawn[36:40]).all()
    assert (pool.sample(4, 0, (1, 0)).labels != pool.sample(4, 0, (0, 1)).labels).any()
