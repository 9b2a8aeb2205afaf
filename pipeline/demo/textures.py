"""Textures of the objects in synthetic scenes.

Each is a function of the coordinates u and v in units of one period, float32 [n] each, and returns the fraction of the
dark color, float32 [n] in [0, 1].
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def _edge(t: Any) -> Field:
    """Return a soft step at 0, about a tenth of a period wide."""
    return np.clip(t * 6 + 0.5, 0, 1)


def _stripes(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _edge(np.sin(2 * np.pi * u + 0.6 * np.sin(v)) * 0.3)


def _dots(u: Field, v: Field, rng: np.random.Generator) -> Field:
    row = np.floor(v)
    du, dv = (u + 0.5 * (row % 2)) % 1 - 0.5, v % 1 - 0.5
    return _edge(0.32 - np.hypot(du, dv))


def _weave(u: Field, v: Field, rng: np.random.Generator) -> Field:
    over = (np.floor(u) + np.floor(v)) % 2
    along = np.where(over == 0, u, v)
    return 0.15 + 0.7 * np.abs(2 * ((2 * along) % 1) - 1) ** 2


def _rings(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _edge(np.sin(2 * np.pi * np.hypot(u, v)) * 0.3)


def _hexagons(u: Field, v: Field, rng: np.random.Generator) -> Field:
    # A honeycomb is two interleaved lattices of centers; the wall is where the nearer center is far.
    s = np.float32(np.sqrt(3))
    lattices = [((u - a) % 1 - 0.5, (v - a * s) % s - 0.5 * s) for a in (0.0, 0.5)]
    reach = [np.maximum(np.abs(x), 0.5 * np.abs(x) + 0.5 * s * np.abs(y)) for x, y in lattices]
    return _edge((np.minimum(*reach) - 0.42) * 2)


def _bricks(u: Field, v: Field, rng: np.random.Generator) -> Field:
    row = np.floor(v * 1.4)
    along = (u * 0.7 + 0.5 * (row % 2)) % 1
    across = (v * 1.4) % 1
    return np.maximum(_edge(0.09 - np.minimum(along, 1 - along) * 1.4), _edge(0.12 - np.minimum(across, 1 - across)))


def _checker(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _edge(np.sin(np.pi * u) * np.sin(np.pi * v))


def _tartan(u: Field, v: Field, rng: np.random.Generator) -> Field:
    across = (np.sin(np.pi * u) > 0.55) * 0.5 + (np.abs(u % 2 - 1.5) < 0.07) * 0.3
    down = (np.sin(np.pi * v) > 0.55) * 0.5 + (np.abs(v % 2 - 1.5) < 0.07) * 0.3
    return np.clip(across + down, 0, 1).astype(np.float32)


def _marble(u: Field, v: Field, rng: np.random.Generator) -> Field:
    bend = np.sin(0.9 * u + 1.3 * np.sin(0.8 * v + rng.uniform(0, 6))) + np.sin(0.7 * v + rng.uniform(0, 6))
    return 0.5 + 0.5 * np.sin(3.5 * bend + 1.5 * u)


def _zigzag(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return _edge(np.sin(2 * np.pi * (v + np.abs(u % 1 - 0.5))) * 0.3)


def _plain(u: Field, v: Field, rng: np.random.Generator) -> Field:
    return np.clip(0.5 + 0.1 * u, 0, 1)


TEXTURES = {
    "stripes": _stripes,
    "dots": _dots,
    "weave": _weave,
    "rings": _rings,
    "hexagons": _hexagons,
    "bricks": _bricks,
    "checker": _checker,
    "tartan": _tartan,
    "marble": _marble,
    "zigzag": _zigzag,
    "plain": _plain,
}
