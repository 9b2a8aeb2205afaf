"""The curves behind the scores, as a table and as a picture."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.score.box_metrics import LEVELS, TAUS
from pipeline.score.counters import ALL, HITS, Tally
from pipeline.score.pixel_metrics import MASK_TAUS, precision_recall
from pipeline.score.trivial_boxes import TRIVIAL
from schemas.scores import CURVES

_GREY = "0.62"
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7b3fa0", "#e69f00", "#56b4e9", "#8c2d04", "#1b5e20", "#c2185b",
)  # fmt: skip
_STYLES = ("-", "--", ":")


def curves(tallies: Mapping[str, Tally]) -> pa.Table:
    """``schemas.scores.CURVES`` of all pictures; methods only, since to a trivial predictor a cut is no threshold."""
    rows: list[dict[str, Any]] = []
    for method, tally in tallies.items():
        if method in TRIVIAL:
            continue
        every = tally.sums(ALL)
        boxes = 100 * every["hits"][0] / every["images"][0]
        for curve in HITS[:4]:
            values = boxes[HITS.index(curve)]
            rows += [
                {"method": method, "curve": curve, "threshold": tau, "value": value, "recall": None}
                for tau, value in zip(TAUS[LEVELS].tolist(), values.tolist(), strict=True)
            ]
        if every["masks"][0]:
            precision, recall = precision_recall(every["sizes"][0].sum(0))
            rows += [
                {"method": method, "curve": "precision", "threshold": tau, "value": 100 * p, "recall": 100 * r}
                for tau, p, r in zip(MASK_TAUS.tolist(), precision.tolist(), recall.tolist(), strict=True)
                if np.isfinite(r)
            ]
    return pa.Table.from_pylist(rows, schema=CURVES)


def draw(table: pa.Table, lines: pa.Table) -> bytes:
    """BoxAcc over the threshold, precision over recall, and MaxBoxAccV2 with intervals, as PNG.

    Args:
        table: as ``schemas.scores.LOCALIZATION``.
        lines: of ``curves``.
    """
    rows = sorted(table.to_pylist(), key=lambda row: row["maxboxacc_v2"])
    methods = [row["method"] for row in rows if row["kind"] == "method"][::-1]
    styles: dict[str, dict[str, Any]] = {
        name: {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _STYLES[place // len(_COLOURS) % len(_STYLES)]}
        for place, name in enumerate(methods)
    }
    masks = "precision" in lines["curve"].to_pylist()
    panels = 3 if masks else 2
    figure = Figure(figsize=(5.6 * panels, max(4.6, 1.6 + 0.3 * len(rows))), dpi=110, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in lines.to_pylist():
        series.setdefault((point["method"], point["curve"]), []).append(point)
    _box_curves(axes[0], rows, series, styles)
    if masks:
        _pixel_curves(axes[1], rows, series, styles)
    _bars(axes[-1], rows, styles)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    images, tested, tuned_on = (rows[0][name] for name in ("images", "test_images", "tuning_images"))
    whose = "label" if rows[0]["target"] == "label" else "predicted class"
    title = f"{images} pictures; thresholds tuned on {tuned_on}, tested on {tested}; maps of the {whose}"
    title += f" by {rows[0]['classifier']}; controls in grey"
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left", color="0.35")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


_Rows = list[dict[str, Any]]
_Series = dict[tuple[str, str], _Rows]
_Styles = dict[str, dict[str, Any]]


def _style(name: str, styles: _Styles) -> dict[str, Any]:
    known = {"linewidth": 1.5, "zorder": 3} | styles.get(name, {})
    return known if name in styles else {"color": _GREY, "linewidth": 1, "zorder": 2}


def _box_curves(axis: Axes, rows: _Rows, series: _Series, styles: _Styles) -> None:
    for row in rows:
        line = series.get((row["method"], "largest50"))
        if line is None:
            continue
        taus, values = ([point[name] for point in line] for name in ("threshold", "value"))
        style = _style(row["method"], styles)
        axis.plot(taus, values, **style)
        for tau, marker in ((row["threshold_oracle"], "^"), (row["threshold"], "o")):
            if tau is not None:
                face = style["color"] if marker == "o" else "white"
                axis.plot(
                    tau, np.interp(tau, taus, values), marker, markersize=5.5, color=style["color"], mfc=face, zorder=4
                )
    for marker, face, label in (("^", "white", "best here (oracle)"), ("o", "0.3", "tuned on the split")):
        axis.plot([], [], marker, color="0.3", mfc=face, label=label)
    axis.legend(fontsize=9, frameon=False)
    axis.set_title("Boxes: largest contour, IoU ≥ 0.5", fontsize=11, loc="left")
    axis.set_xlabel("threshold, of the maximum")
    axis.set_ylabel("BoxAcc, %")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 100)


def _pixel_curves(axis: Axes, rows: _Rows, series: _Series, styles: _Styles) -> None:
    for row in rows:
        line = series.get((row["method"], "precision"))
        if line is None:
            continue
        shown = [point for point in line if point["recall"] > 0]
        axis.plot(
            [point["recall"] for point in shown], [point["value"] for point in shown], **_style(row["method"], styles)
        )
    axis.set_title("Pixels: precision over recall", fontsize=11, loc="left")
    axis.set_xlabel("recall, %")
    axis.set_ylabel("precision, %")
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)


def _bars(axis: Axes, rows: _Rows, styles: _Styles) -> None:
    """Names of the methods stand here once, in the colours of their curves."""
    for place, row in enumerate(rows):
        style, value = _style(row["method"], styles), row["maxboxacc_v2"]
        low, high = row["interval"]["maxboxacc_v2"] or (value, value)
        hatch = {"-": None, "--": "//", ":": ".."}[style.get("linestyle", "-")]
        axis.barh(place, value, height=0.72, color=style["color"], hatch=hatch, edgecolor="white", linewidth=0)
        axis.plot([low, high], [place, place], color="0.15", linewidth=1.4, solid_capstyle="butt")
        axis.text(max(high, value) + 1, place, f"{value:.1f}", va="center", fontsize=8.5, color="0.25")
    axis.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=9)
    for label, row in zip(axis.get_yticklabels(), rows, strict=True):
        label.set_color(_style(row["method"], styles)["color"] if row["kind"] == "method" else "0.45")
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlim(0, 112)
    axis.set_xticks(range(0, 101, 20))
    axis.set_title("MaxBoxAccV2, 95 % of the bootstrap", fontsize=11, loc="left")
    axis.set_xlabel("%")
