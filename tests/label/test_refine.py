"""Refinement of maps by pictures: pixel-adaptive (PAMR) and by a dense CRF."""

import sys
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from pipeline.label.crf import CrfRefiner
from pipeline.label.pamr import PamrRefiner
from pipeline.label.refine import Refiner, make_refiner
from schemas.errors import UsageError
from schemas.policy import Crf, Pamr

PAMR = Pamr(iterations=3, dilations=(1, 3))
needs_crf = pytest.mark.skipif(not find_spec("pydensecrf"), reason="the extra crf is not installed")


@pytest.fixture(params=[PAMR, pytest.param(Crf(kind="crf"), marks=needs_crf)], ids=["pamr", "crf"])
def refine(request: pytest.FixtureRequest) -> Refiner:
    return make_refiner(request.param)


def noise(count: int = 3, height: int = 10, width: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Maps [B, 4, 5] and pictures [B, 3, H, W], one of them all of one colour."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    pixels[-1] = 90
    return rng.random((count, 4, 5), np.float32), pixels


def pamr_by_loops(values: np.ndarray, picture: np.ndarray, spec: Pamr) -> np.ndarray:
    """The equations of section 3.3 as they stand, a pixel at a time, in float64: [H, W] and [3, H, W]."""
    _, height, width = picture.shape
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]

    def near(y: int, x: int, centre: bool) -> list[tuple[int, int]]:
        places = [(y + d * v, x + d * u) for d in spec.dilations for v, u in around if centre or (v, u) != (0, 0)]
        return [(min(max(v, 0), height - 1), min(max(u, 0), width - 1)) for v, u in places]

    weights = np.zeros((height, width, 8 * len(spec.dilations)))
    for y in range(height):
        for x in range(width):
            deviation = np.std([picture[:, v, u] for v, u in near(y, x, True)], axis=0, ddof=1)
            alike = [np.abs(picture[:, v, u] - picture[:, y, x]) for v, u in near(y, x, False)]
            weights[y, x] = np.exp([-np.mean(each / (0.1 * deviation + 1e-12)) for each in alike])
    weights /= weights.sum(2, keepdims=True)
    for _ in range(spec.iterations):
        before, values = values, np.zeros_like(values)
        for y in range(height):
            for x in range(width):
                values[y, x] = weights[y, x] @ [before[place] for place in near(y, x, False)]
    return values


def test_pamr_is_what_the_paper_says() -> None:
    maps, pixels = noise()
    refined = PamrRefiner(PAMR)(maps, pixels)
    for values, picture, found in zip(maps, pixels, refined, strict=True):
        large = cv2.resize(values.astype(np.float64), (14, 10), interpolation=cv2.INTER_LINEAR)
        assert np.abs(found - pamr_by_loops(large, picture.astype(np.float64), PAMR)).max() < 1e-5


def test_pamr_reaches_farther_than_the_picture_is_large() -> None:
    maps, pixels = noise()
    spec = Pamr(iterations=1, dilations=(1, 24))
    large = cv2.resize(maps[0].astype(np.float64), (14, 10), interpolation=cv2.INTER_LINEAR)
    expected = pamr_by_loops(large, pixels[0].astype(np.float64), spec)
    assert np.abs(PamrRefiner(spec)(maps, pixels)[0] - expected).max() < 1e-5


def test_pamr_leaves_a_constant_map_as_it_is() -> None:
    _, pixels = noise()
    assert np.allclose(PamrRefiner(Pamr())(np.full((3, 4, 5), 0.3, np.float32), pixels), 0.3, atol=1e-5)


def test_pamr_stays_within_the_map() -> None:
    maps, pixels = noise()
    refined = PamrRefiner(Pamr())(maps, pixels)
    assert (refined >= maps.min((1, 2))[:, None, None] - 1e-5).all()
    assert (refined <= maps.max((1, 2))[:, None, None] + 1e-5).all()


def test_a_refined_map_has_the_size_of_the_input(refine: Refiner) -> None:
    refined = refine(*noise())
    assert (refined.shape, refined.dtype) == ((3, 10, 14), np.float32)
    assert ((refined >= -1e-5) & (refined <= 1 + 1e-5)).all()


def test_a_batch_gives_what_single_pictures_give(refine: Refiner) -> None:
    maps, pixels = noise(count=11)
    single = np.concatenate([refine(maps[place : place + 1], pixels[place : place + 1]) for place in range(11)])
    assert np.abs(refine(maps, pixels) - single).max() < 1e-5


def test_refinement_is_deterministic(refine: Refiner) -> None:
    maps, pixels = noise()
    before = maps.copy(), pixels.copy()
    assert np.array_equal(refine(maps, pixels), refine(maps, pixels))
    assert np.array_equal(before[0], maps)
    assert np.array_equal(before[1], pixels)


@pytest.mark.parametrize("spec", [Pamr(), pytest.param(Crf(kind="crf"), marks=needs_crf)], ids=["pamr", "crf"])
def test_a_coarse_map_takes_the_edge_of_the_picture(spec: Pamr | Crf) -> None:
    """A bright object whose edge runs through the middle of a patch."""
    real = np.zeros((48, 48), bool)
    real[10:32, 14:37] = True
    rng = np.random.default_rng(0)
    pixels = (np.where(real, 180, 60) + rng.normal(0, 6, (3, 48, 48))).clip(0, 255).astype(np.uint8)[None]
    coarse = cv2.resize(real.astype(np.float32), (6, 6), interpolation=cv2.INTER_AREA)[None]
    before = cv2.resize(coarse[0], (48, 48), interpolation=cv2.INTER_LINEAR) > 0.5
    after = make_refiner(spec)(coarse, pixels)[0] > 0.5
    overlaps = [(mask & real).sum() / (mask | real).sum() for mask in (before, after)]
    assert overlaps[0] < 0.9
    assert overlaps[1] > 0.97


def test_a_crf_that_is_not_installed_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UsageError, match=r"vit-atlas\[crf\]"):
        CrfRefiner(Crf(kind="crf"))
