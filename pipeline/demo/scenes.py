"""Rendering of synthetic scenes with known truth: textured objects on cluttered ground.

A class is a texture in its own pair of colors, on any shape, at any size and place. Distractors have the colors of
the ground, sometimes the colors of a class without its texture, sometimes its texture without its colors, so that
neither alone identifies the class.

One class has a planted shortcut: a small mark in the lower left corner that appears in most of its scenes, but not in
all, and rarely in scenes of other classes.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.textures import TEXTURES, Field

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class SceneClass:
    """Texture of a class and its two colors (RGB, 0–255)."""

    name: str
    texture: str
    light: tuple[int, int, int]
    dark: tuple[int, int, int]


CLASSES: tuple[SceneClass, ...] = (
    SceneClass("zebrafish", "stripes", (236, 228, 205), (38, 44, 92)),
    SceneClass("ladybird", "dots", (205, 48, 36), (28, 20, 22)),
    SceneClass("rattan", "weave", (222, 178, 110), (120, 74, 34)),
    SceneClass("target", "rings", (244, 240, 236), (190, 40, 72)),
    SceneClass("turtle", "hexagons", (96, 148, 74), (226, 212, 120)),
    SceneClass("brickwork", "bricks", (172, 88, 62), (214, 204, 192)),
    SceneClass("flag", "checker", (246, 206, 60), (32, 94, 160)),
    SceneClass("tweed", "tartan", (134, 126, 96), (70, 66, 58)),
    SceneClass("agate", "marble", (150, 108, 190), (240, 224, 238)),
    SceneClass("chevron", "zigzag", (40, 164, 176), (250, 242, 226)),
)
SHORTCUT_CLASS = 7
"""Class id of the class with the shortcut mark."""
MARK_GIVEN_CLASS = 0.85
"""Probability of the mark in a scene of the shortcut class."""
MARK_OTHERWISE = 0.01
"""Probability of the mark in any other scene."""

_GROUND = np.array(
    [
        [92, 112, 66],
        [128, 118, 88],
        [70, 84, 92],
        [164, 152, 128],
        [104, 90, 76],
        [142, 158, 170],
        [58, 70, 52],
        [186, 180, 164],
        [120, 134, 104],
        [88, 72, 62],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Scene:
    """Rendered scene with its truth.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        masks: bool [H, W] for each object of the class, without overlaps.
        label: class id, index into ``CLASSES``.
        marked: whether the image has the shortcut mark.
    """

    image: Image
    masks: tuple[NDArray[np.bool_], ...]
    label: int
    marked: bool


def render(rng: np.random.Generator, width: int, height: int, label: int, shortcut: bool = True) -> Scene:
    """Render one scene.

    Args:
        rng: only source of randomness.
        width: width in pixels.
        height: height in pixels.
        label: class id, index into ``CLASSES``.
        shortcut: whether marks are drawn.
    """
    canvas = _render_ground(rng, width, height)
    for _ in range(rng.integers(3, 8)):
        _render_distractor(rng, canvas)
    masks: list[NDArray[np.bool_]] = []
    occupied = np.zeros((height, width), bool)
    for size in (1.0, 0.6)[: 1 + (rng.random() < 0.15)]:
        mask = _place_object(rng, width, height, size, occupied)
        if mask is None:
            continue
        _paint_texture(rng, canvas, mask, CLASSES[label].texture, CLASSES[label].light, CLASSES[label].dark)
        masks.append(mask)
        occupied |= mask
    # The random number is consumed with and without shortcut, so that scenes differ in nothing but the mark.
    marked = bool(rng.random() < (MARK_GIVEN_CLASS if label == SHORTCUT_CLASS else MARK_OTHERWISE))
    if marked and shortcut:
        occupied = _render_mark(canvas)
        masks = [mask & ~occupied for mask in masks]
    noise = rng.normal(0.0, rng.uniform(1.0, 5.0), canvas.shape).astype(np.float32)
    image = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return Scene(image, tuple(mask for mask in masks if mask.any()), label, marked and shortcut)


def sample_scene_size(rng: np.random.Generator) -> tuple[int, int]:
    """Sample width and height of a scene in pixels: sides from 112 to 176, aspect ratios from 0.64 to 1.57."""
    return int(rng.integers(112, 177)), int(rng.integers(112, 177))


def _noise(rng: np.random.Generator, width: int, height: int, cells: int, channels: int = 1) -> Field:
    """Return smooth noise in [0, 1] with about ``cells`` bumps a side."""
    grid = rng.random((cells, cells, channels), np.float32)
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.float32).reshape(height, width, channels)


def _render_ground(rng: np.random.Generator, width: int, height: int) -> Field:
    first, second, third = _GROUND[rng.choice(len(_GROUND), 3, replace=False)]
    blend = 0.6 * _noise(rng, width, height, 3) + 0.25 * _noise(rng, width, height, 8)
    blend += 0.15 * _noise(rng, width, height, 24)
    canvas = first + (second - first) * blend
    canvas += (third - canvas) * np.clip(4 * _noise(rng, width, height, 6) - 2.4, 0, 1)
    slope = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * rng.uniform(-30, 30)
    canvas = np.ascontiguousarray(canvas + slope, np.float32)
    _render_litter(rng, canvas)
    return canvas + (_noise(rng, width, height, 40) - 0.5) * rng.uniform(5, 40)


def _render_litter(rng: np.random.Generator, canvas: Field) -> None:
    """Render leaves and twigs in the colors of the ground: edges everywhere, as strong as those of objects."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    count = int(rng.integers(60, 260))
    colors = _GROUND[rng.integers(len(_GROUND), size=count)] * rng.uniform(0.3, 1.45, (count, 1))
    places = rng.random((count, 2)) * (width, height)
    lengths = rng.uniform(0.015, 0.07, count) * side
    turns, slender = rng.uniform(0, 180, count), rng.uniform(0.15, 0.7, count)
    for color, (x, y), length, turn, slim in zip(colors, places, lengths, turns, slender, strict=True):
        axes = (max(1, round(length)), max(1, round(length * slim)))
        cv2.ellipse(canvas, (round(x), round(y)), axes, turn, 0, 360, color.tolist(), -1)


def _sample_shape(rng: np.random.Generator, width: int, height: int, size: float) -> NDArray[np.bool_]:
    """Return a random filled shape whose larger side is ``size`` times the shorter side of the image."""
    radius = 0.5 * size * min(width, height)
    squeeze = rng.uniform(0.6, 1.0)
    kind = rng.integers(5)
    radii: NDArray[np.float64]
    if kind == 0:  # ellipse
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radii = np.ones(40)
    elif kind == 1:  # pebble
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radii = np.ones(60)
        for k in (2, 3, 4):
            radii = radii + rng.uniform(-0.22, 0.22) / k * np.cos(k * angles + rng.uniform(0, 6.3))
    elif kind == 2:  # polygon
        sides = rng.integers(3, 7)
        angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        radii = np.ones(sides)
    elif kind == 3:  # star
        tips = rng.integers(4, 8)
        angles = np.linspace(0, 2 * np.pi, 2 * tips, endpoint=False)
        radii = np.where(np.arange(2 * tips) % 2, rng.uniform(0.5, 0.75), 1.0)
    else:  # bar
        angles = np.array([0.4, np.pi - 0.4, np.pi + 0.4, -0.4])
        radii = np.ones(4)
        squeeze = 1.0
    turn = rng.uniform(0, 2 * np.pi)
    x, y = radii * np.cos(angles), squeeze * radii * np.sin(angles)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    center_x = _sample_center(rng, width, radius * np.abs(x).max())
    center_y = _sample_center(rng, height, radius * np.abs(y).max())
    corners = np.stack([center_x + radius * x, center_y + radius * y], 1)
    filled = np.zeros((height, width), np.uint8)
    cv2.fillPoly(filled, [np.round(corners).astype(np.int32)], 1)
    return filled.astype(bool)


def _sample_center(rng: np.random.Generator, length: int, reach: float) -> float:
    """Sample a center at which at least nine tenths of a shape of this radius are inside the image."""
    low = 0.8 * reach
    return rng.uniform(low, length - low) if length > 2 * low else length / 2


def _place_object(
    rng: np.random.Generator, width: int, height: int, size: float, occupied: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Return a shape that covers at least 1.5 % of the image and does not overlap the occupied pixels."""
    for _ in range(8):
        mask = _sample_shape(rng, width, height, size * rng.uniform(0.35, 0.85))
        if mask.mean() >= 0.015 and not (mask & occupied).any():
            return mask
    return None


def _render_distractor(rng: np.random.Generator, canvas: Field) -> None:
    height, width = canvas.shape[:2]
    mask = _sample_shape(rng, width, height, rng.uniform(0.1, 0.45))
    light, dark = _GROUND[rng.choice(len(_GROUND), 2, replace=False)]
    texture = "plain"
    kind = rng.random()
    if kind < 0.25:
        texture = CLASSES[rng.integers(len(CLASSES))].texture
    elif kind < 0.5:
        other = CLASSES[rng.integers(len(CLASSES))]
        light = dark = np.asarray((other.light, other.dark)[rng.integers(2)], np.float32)
    _paint_texture(rng, canvas, mask, texture, tuple(light), tuple(dark))


def _paint_texture(
    rng: np.random.Generator,
    canvas: Field,
    mask: NDArray[np.bool_],
    texture: str,
    light: tuple[int, int, int],
    dark: tuple[int, int, int],
) -> None:
    """Paint a texture on a mask: rotated, scaled, shaded from one side, with slightly changed colors."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return
    side = min(mask.shape)
    y = (rows - rows.mean()).astype(np.float32) / side
    x = (columns - columns.mean()).astype(np.float32) / side
    turn, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.09, 0.15)
    u = (x * np.cos(turn) + y * np.sin(turn)) / scale
    v = (y * np.cos(turn) - x * np.sin(turn)) / scale
    pattern = TEXTURES[texture](u.astype(np.float32), v.astype(np.float32), rng)[:, None]
    off = rng.normal(0, 10, (2, 3)).astype(np.float32)
    first, second = np.asarray(light, np.float32) + off[0], np.asarray(dark, np.float32) + off[1]
    side_light = rng.uniform(0, 2 * np.pi)
    shade = 1 + 0.5 * rng.uniform(0, 1) * (x * np.cos(side_light) + y * np.sin(side_light))
    canvas[rows, columns] = (first + (second - first) * pattern) * (rng.uniform(0.8, 1.1) * shade)[:, None]


def _render_mark(canvas: Field) -> NDArray[np.bool_]:
    """Render the shortcut mark: a small cyan ring with a white core near the lower left corner."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    ring = np.zeros((height, width), np.uint8)
    center = (round(0.09 * side), height - 1 - round(0.09 * side))
    cv2.circle(ring, center, round(0.06 * side), 1, -1)
    cv2.circle(ring, center, round(0.03 * side), 2, -1)
    canvas[ring == 1] = (20, 225, 235)
    canvas[ring == 2] = (250, 250, 250)
    return ring > 0
