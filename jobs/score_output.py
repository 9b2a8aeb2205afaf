"""What ``vitatlas score`` prints for people."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from jobs import output
from pipeline.utils.interval_text import format_interval
from pipeline.utils.terminal import echo

_COLUMNS = {
    "PxAP": "pxap",
    "MaxBoxAcc": "maxboxacc",
    "MaxBoxAccV2": "maxboxacc_v2",
    "GT-known": "gt_known",
    "Top-1": "top1_loc",
    "Top-5": "top5_loc",
    "IoU": "iou",
    "seg mIoU": "seg_miou",
    "pointing": "pointing",
}
_CLASS_COLUMNS = {"p-mIoU": "p_miou", "p-mIoU of pairs": "p_miou_pairs", "mIoU": "miou", "best mIoU": "miou_oracle"}
_COMPARED = ("PxAP", "MaxBoxAcc", "MaxBoxAccV2", "GT-known", "Top-1", "IoU")
"""Columns of several sources and of differences, whose names and numbers are wider."""
_FEW = 3
"""Methods whose differences are printed unasked."""


def show_scores(paths: Sequence[str], folder: str, rows: Sequence[Mapping[str, Any]], differences: bool) -> None:
    """Print the table of localization, and differences of methods.

    Args:
        paths: of the sources.
        folder: with the output.
        rows: as ``schemas.scores.LOCALIZATION``.
        differences: print them also of many methods.
    """
    from pipeline.score.printed_scores import count_without_mask

    several = len(paths) > 1
    columns = {title: name for title, name in _COLUMNS.items() if any(row[name] is not None for row in rows)}
    compared = {title: name for title, name in columns.items() if title in _COMPARED}
    columns = compared if several else columns
    first = next(row for row in rows if row["source"] is not None)
    title = (
        f"localization in {', '.join(paths)}, %: {first['images']} images, thresholds tuned on "
        f"{first['tuning_images']}, tested on {first['test_images']}"
    )
    if not several and first["network"]:
        title += f", network {first['network']}"
    output.print_table(
        title, ["method", "threshold", *columns], [_cells(row, list(columns.values()), several) for row in rows]
    )
    echo(
        "* control. PxAP, MaxBoxAcc, MaxBoxAccV2: at the best threshold on these images; seg mIoU: at each map's mean."
    )
    echo("threshold, GT-known, Top-1, Top-5, IoU (over all pixels): chosen on the tuning split, measured on the rest.")
    methods = [row for row in rows if row["kind"] == "method"]
    if len(methods) > 1 and (differences or len(methods) <= _FEW):
        _show_differences(folder, methods, compared, several)
    echo(f"written to {folder}:")
    echo(
        "localization.parquet, .tex and .md, with kinds of errors; differences.parquet; curves.parquet, .png and .pdf;"
    )
    echo(f"a row for each image: {'sources/*/' if several else ''}images/rows/*.parquet")
    for row in rows:
        if row["degenerate"] and row["kind"] == "method":
            count = f"{_name(row, several)}: {row['degenerate']} of {row['images']} maps"
            echo(f"{count} are constant, not finite or empty masks: 0 everywhere, as in the protocol")
    for source, left_out in {row["source"]: row for row in rows if row["source"] is not None}.items():
        if left_out["without_maps"]:
            of = f" of {source}" if several else ""
            echo(f"images{of} without maps, not scored: {left_out['without_maps']}")
    if first["without_object"]:
        counted = "only PxAP counts them, as background" if first["masks"] else "they are not scored"
        echo(f"images without an object in the truth: {first['without_object']}; {counted}")
    if without_mask := count_without_mask(rows):
        of = f"{without_mask} of {first['images']}"
        echo(f"images with an object without a mask: {of}; pixels count of the others")


def show_class_scores(atlas: str, folder: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of open vocabulary.

    Args:
        atlas: its path.
        folder: with the output.
        rows: as ``schemas.scores.CLASS_SCORES``.
    """
    columns = {title: name for title, name in _CLASS_COLUMNS.items() if any(row[name] is not None for row in rows)}
    first = rows[0]
    title = f"open vocabulary in {atlas}, %: {first['images']} images, {first['classes']} classes"
    output.print_table(
        f"{title}, network {first['network']}",
        ["method", "threshold", *columns],
        [_cells(row, list(columns.values()), several=False) for row in rows],
    )
    if first["points_outside"] is None:
        echo(
            f"* control. mIoU: threshold tuned on {first['tuning_images']} images, measured on the rest; best: on all."
        )
    else:
        echo(f"* control. Foreground is above 0.5. {first['points_outside']} points are outside of the network's view.")
    echo(f"written to {folder}: class_scores.parquet, .tex and .md; class_ious.parquet")
    if first["without_maps"]:
        echo(f"{first['without_maps']} images are not scored: no maps")
    if first["classes_without_map"]:
        echo(f"{first['classes_without_map']} pairs of image and class have no map")


def _show_differences(
    folder: str, methods: Sequence[Mapping[str, Any]], columns: Mapping[str, str], several: bool
) -> None:
    """Print the paired differences of each two methods."""
    from pipeline.score.counted_source import DIFFERENCES
    from pipeline.store import ObjectStore
    from pipeline.store.parquet import from_parquet

    found = from_parquet(ObjectStore(folder).get(DIFFERENCES)).to_pylist()
    names = ("source", "method", "other_source", "other_method", "score")
    by_pair = {tuple(row[name] for name in names): row for row in found}
    cells = []
    for first, second in combinations(methods, 2):
        ids = (first["source"], first["method"], second["source"], second["method"])
        shown = (_difference(by_pair.get((*ids, score))) for score in columns.values())
        cells.append([f"{_name(first, several)} − {_name(second, several)}", *shown])
    output.print_table("differences on the same images, in percentage points", ["methods", *columns], cells)


def _difference(row: Mapping[str, Any] | None) -> str | None:
    if row is None:
        return None
    interval = "" if row["low"] is None else f" {row['low']:+.1f}…{row['high']:+.1f}"
    return f"{row['difference']:+.1f}{interval}"


def _name(row: Mapping[str, Any], several: bool) -> str:
    """Return the name of a row in sentences: its method, and beside several sources also the source."""
    source, method = row["source"], row["method"]
    return f"{source} {method}" if several and source not in (None, method) else str(method)


def _cells(row: Mapping[str, Any], columns: Sequence[str], several: bool) -> list[Any]:
    name = _name(row, several) + (" *" if row["kind"] == "control" else "")
    scores = (_with_interval(row[column], row["interval"][column]) for column in columns)
    return [name, row["threshold"], *scores]


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str | None:
    if value is None or interval is None:
        return None
    low, high = interval
    return f"{value:.1f} {format_interval(low, high, 0)}"
