"""Picture of a ranking: every signal of every method, with its interval and the best control."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from schemas.rank import RankedMethod, RankRecord
from schemas.targets import in_words
from schemas.text import escape_control

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"stands": "#1b7837", "uncertain": "#e69f00", "fails": "#b2182b", None: "0.5"}
_MARKERS = {"stands": "o", "uncertain": "s", "fails": "X", None: "|"}


class _Point(NamedTuple):
    value: float
    low: float | None
    high: float | None


def plot_ranking(record: RankRecord) -> bytes:
    """Plot a panel for each valid signal, and with truth one of the localization first; equal records, equal PNG.

    Args:
        record: the ranking.
    """
    from matplotlib.figure import Figure  # takes a third of a second

    panels = {name: _of_signal(name, record.methods) for name, check in record.signals.items() if check.valid}
    if record.truth:
        panels = {_localization_title(record.methods): _of_localization(record.methods), **panels}
    if not panels:  # no signal is valid
        panels = {name: _of_signal(name, record.methods) for name in record.signals}
    height = 1.5 + 0.28 * len(record.methods)
    figure = Figure(figsize=(2.6 + 2.1 * len(panels), height), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        _plot_panel(axis, title, points, record.methods)
    axes[0].set_yticks(range(len(record.methods)), [_plain(row.method) for row in record.methods], fontsize=8.5)
    axes[0].set_ylim(len(record.methods) - 0.4, -0.6)
    for label, row in zip(axes[0].get_yticklabels(), record.methods, strict=True):
        label.set_color(_COLORS[row.verdict])
    for verdict in ("stands", "uncertain", "fails", None):
        name = verdict or "control"
        axes[0].plot([], [], _MARKERS[verdict], color=_COLORS[verdict], label=name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    valid = sum(check.valid for check in record.signals.values())
    title = f"{record.images} images, {valid} of {len(record.signals)} signals valid on this network; "
    title += f"maps of the {in_words(record.target)}; 95 % intervals; dashed: the best control"
    figure.suptitle(_plain(title), fontsize=9.5, color="0.35")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _of_signal(name: str, rows: Sequence[RankedMethod]) -> list[_Point | None]:
    scores = [row.signals.get(name) for row in rows]
    return [None if score is None else _Point(score.mean, score.low, score.high) for score in scores]


def _of_localization(rows: Sequence[RankedMethod]) -> list[_Point | None]:
    scores = [row.localization for row in rows]
    return [None if score is None else _Point(score.value, score.low, score.high) for score in scores]


def _localization_title(rows: Sequence[RankedMethod]) -> str:
    return next((f"{row.localization.score}, %" for row in rows if row.localization), "localization")


def _plot_panel(axis: "Axes", title: str, points: Sequence[_Point | None], rows: Sequence[RankedMethod]) -> None:
    controls = [point.value for point, row in zip(points, rows, strict=True) if point and row.kind == "control"]
    if controls:
        axis.axvline(max(controls), color="0.6", linewidth=1, linestyle="--", zorder=1)
    for place, (point, row) in enumerate(zip(points, rows, strict=True)):
        if point is None:
            continue
        color = _COLORS[row.verdict]
        if point.low is not None and point.high is not None:
            axis.plot([point.low, point.high], [place, place], color=color, linewidth=1.4, zorder=2)
        axis.plot(point.value, place, _MARKERS[row.verdict], color=color, markersize=5.5, zorder=3)
    axis.set_title(_plain(title), fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5)
    axis.grid(axis="y", color="0.93", zorder=0)


def _plain(text: str) -> str:
    """Return text from data that matplotlib takes for no formula."""
    return escape_control(text).replace("$", r"\$")
