"""Layout of dot plots and rank plots: coordinates of their marks, which the template draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import isotonic_regression

from pipeline.audit.report.score_view import ScoreColumn
from schemas.scores import is_control

ROW = 22
"""Height of a method, in pixels of the plot."""
COLUMN = 96
"""Largest width of a score in the rank plot; less for many scores, so that the plot fits the page."""
_RANK_PLOT_WIDTH = 860
LABEL = 14
"""Smallest distance between two names."""
WIDTH = 220
"""Width of a dot plot."""
NUM_COLORS = 8
"""Number of methods with a color of their own; the others have the color of the text."""


@dataclass(frozen=True)
class Dot:
    """A score of a method, as a mark in a dot plot.

    Attributes:
        method: name of the method.
        control: True for a control.
        x: position of the mean.
        y: position of the row.
        low: left end of the interval; None without interval.
        high: right end of the interval; None without interval.
        text: the score in words.
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
    """A plot of one score, with one row per method."""

    score: ScoreColumn
    height: int
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class RankLine:
    """A method in the rank plot.

    Attributes:
        method: name of the method.
        control: True for a control.
        color: from 1 to ``NUM_COLORS``; 0 is the color of the text.
        points: x, y and rank.
        segments: x0, y0, x1, y1 of lines between neighbors that both have a rank.
        first: x and y of the name beside the first point.
        last: x and y of the name beside the last point.
    """

    method: str
    control: bool
    color: int
    points: tuple[tuple[float, float, float], ...]
    segments: tuple[tuple[float, float, float, float], ...]
    first: tuple[float, float]
    last: tuple[float, float]


@dataclass(frozen=True)
class RankPlot:
    """A plot of the ranks of all methods by several scores."""

    width: int
    height: int
    columns: tuple[tuple[float, str], ...]
    lines: tuple[RankLine, ...]


def layout_dot_plot(score: ScoreColumn, methods: Sequence[str]) -> DotPlot:
    """Lay out the plot of a score; methods without it have an empty row.

    Args:
        score: the score.
        methods: names of the methods, from the top.
    """
    ends = [end for value in score.values.values() for end in (value.mean, value.low, value.high) if end is not None]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return round(8 + (value - low) / span * (WIDTH - 16), 1)

    dots = []
    for place, method in enumerate(methods):
        value = score.values.get(method)
        if value is not None:
            bounds = None if value.low is None or value.high is None else (x(value.low), x(value.high))
            text = f"{method}: {value.mean:.{score.digits}f}"
            if bounds:
                text += f" ({value.low:.{score.digits}f} to {value.high:.{score.digits}f})"
            start, end = bounds or (None, None)
            dots.append(Dot(method, is_control(method), x(value.mean), (place + 0.5) * ROW, start, end, text))
    ticks = tuple((x(end), f"{end:.{score.digits}f}") for end in ((low, high) if high > low else (low,)))
    return DotPlot(score, ROW * len(methods), tuple(dots), ticks)


def layout_rank_plot(scores: Sequence[ScoreColumn], methods: Sequence[str]) -> RankPlot:
    """Lay out the plot of ranks; rank 1 is at the top of each column.

    Args:
        scores: scores that rank methods, from left to right.
        methods: names of the methods; the first ones get colors.
    """
    column_width = min(COLUMN, _RANK_PLOT_WIDTH / max(len(scores), 1))
    columns = tuple((round((place + 0.5) * column_width, 1), score.name) for place, score in enumerate(scores))
    colored = [method for method in methods if not is_control(method)][:NUM_COLORS]
    ranks = [score.ranks(methods) for score in scores]
    layouts = []
    for method in methods:
        positions: list[tuple[float, float, float] | None] = [
            (x, round((column_ranks[method] - 0.5) * ROW, 1), column_ranks[method]) if method in column_ranks else None
            for (x, _), column_ranks in zip(columns, ranks, strict=True)
        ]
        segments = tuple((a[0], a[1], b[0], b[1]) for a, b in pairwise(positions) if a is not None and b is not None)
        points = tuple(position for position in positions if position is not None)
        if points:
            color = colored.index(method) + 1 if method in colored else 0
            layouts.append((method, color, points, segments))
    names = [spread_labels([points[end][:2] for _, _, points, _ in layouts]) for end in (0, -1)]
    lines = tuple(
        RankLine(method, is_control(method), color, points, segments, first, last)
        for (method, color, points, segments), first, last in zip(layouts, *names, strict=True)
    )
    return RankPlot(round(column_width * len(scores)), ROW * len(lines), columns, lines)


def spread_labels(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return positions of labels beside points, moved vertically just enough that labels of a column do not overlap."""
    labels = list(points)
    for x in {x for x, _ in points}:
        column = sorted((place for place, point in enumerate(points) if point[0] == x), key=lambda at: points[at][1])
        steps = LABEL * np.arange(len(column))
        moved = isotonic_regression([points[place][1] for place in column] - steps).x + steps
        for place, y in zip(column, moved.tolist(), strict=True):
            labels[place] = (x, round(y, 1))
    return labels
