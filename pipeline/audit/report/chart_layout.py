"""Where marks of the rank plots lie; the template draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import isotonic_regression

from pipeline.audit.report.score_view import ScoreColumn
from schemas.scores import is_control

ROW = 22
"""Height of a method, in pixels of the drawing."""
COLUMN = 96
"""Width of a score in the plot of ranks, at most: of many they are less, so that it fits the page."""
_RANKS = 860
LABEL = 14
"""Between two names, at least."""
WIDTH = 220
"""Of a plot of dots."""
NUM_COLORS = 8
"""Methods that have a colour of their own; the others are drawn in the colour of the text."""


@dataclass(frozen=True)
class Dot:
    """A score of a method: places in the drawing.

    Attributes:
        low, high: ends of its interval; None where it has none.
        text: what it says in words.
    """

    method: str
    control: bool
    x: float
    y: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class DotPlot:
    """A plot of one score: a row a method."""

    score: ScoreColumn
    height: int
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class RankLine:
    """A method in the plot of ranks.

    Attributes:
        colour: from 1 to ``NUM_COLORS``; 0 is that of the text.
        points: x, y and rank; pieces: lines between neighbours that both have a rank.
        first, last: x and y of its names, beside its first and last point.
    """

    method: str
    control: bool
    colour: int
    points: tuple[tuple[float, float, float], ...]
    pieces: tuple[tuple[float, float, float, float], ...]
    first: tuple[float, float]
    last: tuple[float, float]


@dataclass(frozen=True)
class RankPlot:
    """Ranks of all methods by several scores."""

    width: int
    height: int
    columns: tuple[tuple[float, str], ...]
    lines: tuple[RankLine, ...]


def layout_dot_plot(score: ScoreColumn, methods: Sequence[str]) -> DotPlot:
    """The plot of a score; methods without it have an empty row."""
    ends = [end for each in score.values.values() for end in (each.mean, each.low, each.high) if end is not None]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(8 + (value - low) / span * (WIDTH - 16), 1)

    found = []
    for place, method in enumerate(methods):
        value = score.values.get(method)
        if value is not None:
            bounds = None if value.low is None or value.high is None else (x(value.low), x(value.high))
            text = f"{method}: {value.mean:.{score.digits}f}"
            if bounds:
                text += f" ({value.low:.{score.digits}f} to {value.high:.{score.digits}f})"
            start, end = bounds or (None, None)
            found.append(Dot(method, is_control(method), x(value.mean), (place + 0.5) * ROW, start, end, text))
    ticks = tuple((x(each), f"{each:.{score.digits}f}") for each in ((low, high) if high > low else (low,)))
    return DotPlot(score, ROW * len(methods), tuple(found), ticks)


def layout_rank_plot(scores: Sequence[ScoreColumn], methods: Sequence[str]) -> RankPlot:
    """The plot of ranks, first method first: 1 is at the top of each column."""
    wide = min(COLUMN, _RANKS / max(len(scores), 1))
    columns = tuple((round((place + 0.5) * wide, 1), score.name) for place, score in enumerate(scores))
    coloured = [method for method in methods if not is_control(method)][:NUM_COLORS]
    found = [score.ranks(methods) for score in scores]
    drawn = []
    for method in methods:
        points: list[tuple[float, float, float] | None] = [
            (x, round((own[method] - 0.5) * ROW, 1), own[method]) if method in own else None
            for (x, _), own in zip(columns, found, strict=True)
        ]
        pieces = tuple(
            (one[0], one[1], other[0], other[1])
            for one, other in pairwise(points)
            if one is not None and other is not None
        )
        known = tuple(point for point in points if point is not None)
        if known:
            colour = coloured.index(method) + 1 if method in coloured else 0
            drawn.append((method, colour, known, pieces))
    names = [spread_labels([points[end][:2] for _, _, points, _ in drawn]) for end in (0, -1)]
    lines = tuple(
        RankLine(method, is_control(method), colour, known, pieces, first, last)
        for (method, colour, known, pieces), first, last in zip(drawn, *names, strict=True)
    )
    return RankPlot(round(wide * len(scores)), ROW * len(lines), columns, lines)


def spread_labels(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places of names beside points, moved up and down as little as keeps those of one column from overlapping."""
    found = list(points)
    for x in {x for x, _ in points}:
        column = sorted((place for place, point in enumerate(points) if point[0] == x), key=lambda at: points[at][1])
        steps = LABEL * np.arange(len(column))
        moved = isotonic_regression([points[place][1] for place in column] - steps).x + steps
        for place, y in zip(column, moved.tolist(), strict=True):
            found[place] = (x, round(y, 1))
    return found
