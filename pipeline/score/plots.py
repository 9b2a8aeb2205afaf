"""Curves behind the scores, as a table and as a plot."""

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.score.counters import ALL_GROUPS, HIT_NAMES, ScoreCounts
from pipeline.score.pixel_metrics import MASK_THRESHOLDS, precision_recall
from pipeline.score.threshold_grid import ThresholdGrid
from schemas.scores import CURVES, ERROR_KINDS
from schemas.targets import in_words
from schemas.text import escape_control

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRAY = "0.62"
_COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7b3fa0", "#e69f00", "#56b4e9", "#8c2d04", "#1b5e20", "#c2185b",
)  # fmt: skip
_LINE_STYLES = ("-", "--", ":")
_KIND_COLORS = ("#1b7837", "#9e9e9e", "#f1a340", "#fdd9a0", "#998ec3", "#d8daeb")
"""Of ``ERROR_KINDS``."""

_Rows = list[dict[str, Any]]
_Curves = dict[tuple[str, str], _Rows]
_Styles = dict[str, dict[str, Any]]


def curve_table(counts: Mapping[tuple[str, str], ScoreCounts], grid: ThresholdGrid) -> pa.Table:
    """Return ``schemas.scores.CURVES`` over all images.

    Args:
        counts: of all images, by source and method.
        grid: thresholds of boxes.
    """
    rows: _Rows = []
    for (source, method), score_counts in counts.items():
        name = {"source": source, "method": method}
        sums = score_counts.sums(ALL_GROUPS)
        box_accuracy = 100 * sums["hits"][0] / sums["images"][0]
        for curve in HIT_NAMES[:4]:
            values = box_accuracy[HIT_NAMES.index(curve), grid.levels]
            rows += [
                name | {"curve": curve, "threshold": threshold, "value": value, "recall": None}
                for threshold, value in zip(grid.thresholds.tolist(), values.tolist(), strict=True)
            ]
        if sums["masks"][0]:
            precision, recall = precision_recall(sums["sizes"][0].sum(0))
            rows += [
                name | {"curve": "precision", "threshold": threshold, "value": 100 * p, "recall": 100 * r}
                for threshold, p, r in zip(MASK_THRESHOLDS.tolist(), precision.tolist(), recall.tolist(), strict=True)
                if np.isfinite(r)
            ]
    return pa.Table.from_pylist(rows, schema=CURVES)


def plot_scores(table: pa.Table, curves: pa.Table) -> tuple[bytes, bytes]:
    """Plot BoxAcc over the threshold, precision over recall, MaxBoxAccV2 with intervals, and the kinds of errors.

    Args:
        table: as ``schemas.scores.LOCALIZATION``.
        curves: as ``curve_table`` returns them.

    Returns:
        PNG and PDF. Precision needs masks, and errors need labels.
    """
    from matplotlib.figure import Figure  # takes a third of a second, and those who count hits need none

    several = len(set(table["source"].to_pylist())) > 1
    rows = [row | {"method": _label(row, several)} for row in table.to_pylist()]
    rows.sort(key=lambda row: row["maxboxacc_v2"])
    methods = [row["method"] for row in rows if row["kind"] == "method"][::-1]
    styles: _Styles = {
        name: {
            "color": _COLORS[index % len(_COLORS)],
            "linestyle": _LINE_STYLES[index // len(_COLORS) % len(_LINE_STYLES)],
        }
        for index, name in enumerate(methods)
    }
    points: _Curves = {}
    for point in curves.to_pylist():
        points.setdefault((_label(point, several), point["curve"]), []).append(point)
    panels: list[Callable[[Axes], None]] = [partial(_plot_box_curves, rows=rows, curves=points, styles=styles)]
    if "precision" in curves["curve"].to_pylist():
        panels.append(partial(_plot_pixel_curves, rows=rows, curves=points, styles=styles))
    panels.append(partial(_plot_bars, rows=rows, styles=styles))
    if any(row["error_classification"] is not None for row in rows):
        panels.append(partial(_plot_errors, rows=rows, styles=styles))
    columns = 2 if len(panels) == 4 else len(panels)
    height = max(4.6, 1.6 + 0.3 * len(rows)) * (len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns, height), dpi=120, layout="constrained")
    for letter, panel, axis in zip(
        "abcd", panels, figure.subplots(-(-len(panels) // columns), columns).flat, strict=False
    ):
        panel(axis)
        axis.set_title(f"({letter}) {axis.get_title(loc='left')}", fontsize=11, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    images, tested, tuned_on = (rows[0][name] for name in ("images", "test_images", "tuning_images"))
    title = f"{images} images; thresholds tuned on {tuned_on}, tested on {tested}"
    if not several and rows[0]["target"]:
        title += _plain(f"; maps of the {in_words(rows[0]['target'])} by {rows[0]['network']}")
    title += "; controls in gray"
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left", color="0.35")
    png = _render(figure, "png")
    figure.set_layout_engine("none")  # as it was laid out
    return png, _render(figure, "pdf")


def _render(figure: "Figure", file_format: str) -> bytes:
    """Return the file of a figure; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):  # publishers refuse fonts of type 3
        figure.savefig(buffer, format=file_format, metadata={"CreationDate": None} if file_format == "pdf" else None)
    return buffer.getvalue()


def _label(row: Mapping[str, Any], several: bool) -> str:
    """Return the name of a row: its method, and beside several sources also the source."""
    source, method = row["source"], row["method"]
    return _plain(f"{source}: {method}" if several and source not in (None, method) else method)


def _plain(text: str) -> str:
    """Return text from data that matplotlib takes for no formula."""
    return escape_control(text).replace("$", r"\$")


def _line_style(name: str, styles: _Styles) -> dict[str, Any]:
    if name in styles:
        return {"linewidth": 1.5, "zorder": 3} | styles[name]
    return {"color": _GRAY, "linewidth": 1, "zorder": 2}


def _plot_box_curves(axis: "Axes", rows: _Rows, curves: _Curves, styles: _Styles) -> None:
    for row in rows:
        curve = curves.get((row["method"], "largest50"))
        if curve is None:
            continue
        thresholds, values = ([point[name] for point in curve] for name in ("threshold", "value"))
        style = _line_style(row["method"], styles)
        color = style["color"]
        axis.plot(thresholds, values, **style)
        for threshold, marker, face in ((row["threshold_oracle"], "^", "white"), (row["threshold"], "o", color)):
            if threshold is not None:
                value = np.interp(threshold, thresholds, values)
                axis.plot(threshold, value, marker, markersize=5.5, color=color, mfc=face, zorder=4, clip_on=False)
    for marker, face, label in (("^", "white", "best here (oracle)"), ("o", "0.3", "tuned on the split")):
        axis.plot([], [], marker, color="0.3", mfc=face, label=label)
    axis.legend(fontsize=9, frameon=False)
    axis.set_title("Boxes: largest contour, IoU ≥ 0.5", loc="left")
    axis.set(xlabel="threshold, of the maximum", ylabel="BoxAcc, %", xlim=(0, 1), ylim=(0, 100))


def _plot_pixel_curves(axis: "Axes", rows: _Rows, curves: _Curves, styles: _Styles) -> None:
    for row in rows:
        curve = [point for point in curves.get((row["method"], "precision"), ()) if point["recall"] > 0]
        if curve:
            recall, precision = ([point[name] for point in curve] for name in ("recall", "value"))
            axis.plot(recall, precision, **_line_style(row["method"], styles))
    axis.set_title("Pixels: precision over recall", loc="left")
    axis.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 100), ylim=(0, 100))


def _plot_bars(axis: "Axes", rows: _Rows, styles: _Styles) -> None:
    """Plot a bar for each method, with its name in the color of its curves: the legend of all panels."""
    for index, row in enumerate(rows):
        style, value = _line_style(row["method"], styles), row["maxboxacc_v2"]
        low, high = row["interval"]["maxboxacc_v2"] or (value, value)
        hatch = {"-": None, "--": "//", ":": ".."}[style.get("linestyle", "-")]
        axis.barh(index, value, height=0.72, color=style["color"], hatch=hatch, edgecolor="white", linewidth=0)
        axis.plot([low, high], [index, index], color="0.15", linewidth=1.4, solid_capstyle="butt")
        axis.text(max(high, value) + 1, index, f"{value:.1f}", va="center", fontsize=8.5, color="0.25")
    _label_rows(axis, rows, styles)
    axis.set_title("MaxBoxAccV2, 95 % of the bootstrap", loc="left")
    axis.set(xlabel="%", xlim=(0, 112))


def _plot_errors(axis: "Axes", rows: _Rows, styles: _Styles) -> None:
    """Plot the share of each kind of localization as a part of a bar."""
    left = np.zeros(len(rows))
    for kind, color in zip(ERROR_KINDS, _KIND_COLORS, strict=True):
        shares = np.array([row["top1_loc" if kind == "correct" else f"error_{kind}"] or 0.0 for row in rows])
        label = kind.replace("_", "-")
        places = np.arange(len(rows))
        axis.barh(places, shares, 0.72, left, color=color, edgecolor="white", linewidth=0.6, label=label)
        left += shares
    _label_rows(axis, rows, styles)
    axis.set_title("Kinds of errors, Top-1", loc="left")
    axis.set(xlabel="% of the tested images", xlim=(0, 100))
    axis.legend(fontsize=8.5, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _label_rows(axis: "Axes", rows: _Rows, styles: _Styles) -> None:
    axis.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=9)
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(_line_style(row["method"], styles)["color"] if row["kind"] == "method" else "0.45")
    axis.set(ylim=(-0.6, len(rows) - 0.4), xticks=range(0, 101, 20))
