"""The printed forms of tables of scores: which columns a paper has, and the footnotes that its reader needs."""

from collections.abc import Sequence
from typing import get_args

from pipeline.score.counters import TESTED_GROUPS
from pipeline.score.paper_table import PaperColumn, Row, latex_table, markdown_table, present_columns
from pipeline.utils.bootstrap import REPLICATES
from pipeline.utils.latex import escape_latex
from pipeline.utils.markdown import escape_markdown
from schemas.scores import ScoringSpec
from schemas.targets import TargetGroup, in_words

_LOCALIZATION = (
    PaperColumn("Top-1 cls.", "top1_cls", of_network=True),
    PaperColumn("Top-5 cls.", "top5_cls", of_network=True),
    PaperColumn("Top-1 Loc", "top1_loc"),
    PaperColumn("Top-5 Loc", "top5_loc"),
    PaperColumn("GT-known", "gt_known"),
    PaperColumn("MaxBoxAcc", "maxboxacc"),
    PaperColumn("MaxBoxAccV2", "maxboxacc_v2"),
    PaperColumn("PxAP", "pxap"),
    PaperColumn("IoU", "iou"),
    PaperColumn("mIoU", "seg_miou"),
)
_ERRORS = (
    PaperColumn("Correct", "top1_loc"),
    PaperColumn("Classification", "error_classification", min, of_network=True),
    PaperColumn("Multi-instance", "error_multi_instance", min),
    PaperColumn("Part", "error_part", min),
    PaperColumn("More", "error_more", min),
    PaperColumn("Other", "error_other", min),
)
_CLASSES = (
    PaperColumn("p-mIoU", "p_miou"),
    PaperColumn("p-mIoU of pairs", "p_miou_pairs"),
    PaperColumn("mIoU", "miou"),
    PaperColumn("best mIoU", "miou_oracle"),
)


def print_localization(rows: Sequence[Row], about: ScoringSpec) -> tuple[bytes, bytes]:
    """Return a localization table, and the kinds of errors where images have labels, in LaTeX and in Markdown.

    Args:
        rows: as ``schemas.scores.LOCALIZATION``.
        about: what they were computed from; of several sources, that of any of them.
    """
    has_errors = any(row["error_classification"] is not None for row in rows)
    tables = (_LOCALIZATION, _ERRORS) if has_errors else (_LOCALIZATION,)
    return _print(rows, tables, _localization_notes(rows, about))


def print_classes(rows: Sequence[Row], about: ScoringSpec) -> tuple[bytes, bytes]:
    """Return a table of open vocabulary in LaTeX and in Markdown.

    Args:
        rows: as ``schemas.scores.CLASS_SCORES``.
        about: what they were computed from.
    """
    return _print(rows, (_CLASSES,), _class_notes(rows, about))


def _print(rows: Sequence[Row], tables: Sequence[Sequence[PaperColumn]], notes: Sequence[str]) -> tuple[bytes, bytes]:
    latex = "\\par\\medskip\n".join(latex_table(rows, columns) for columns in tables)
    footnotes = " ".join(map(escape_latex, notes))
    latex = f"% needs \\usepackage{{booktabs}}\n{latex}\\par\\smallskip\n{{\\footnotesize {footnotes}\\par}}\n"
    markdown = "\n".join(markdown_table(rows, columns) for columns in tables)
    return latex.encode(), f"{markdown}\n{''.join(f'- {escape_markdown(note)}' + chr(10) for note in notes)}".encode()


def _localization_notes(rows: Sequence[Row], about: ScoringSpec) -> list[str]:
    notes = [_what(rows), _images(rows, about)]
    notes.append(
        "Protocol of Choe et al. (CVPR 2020): maps, boxes and masks at 224 × 224, thresholds in steps of "
        f"{about.grid_step:g}. MaxBoxAcc and MaxBoxAccV2: at the best threshold on these images."
    )
    notes.append(_thresholds(rows, about))
    shown = {name for row in rows for name, value in row.items() if value is not None}
    if "top1_cls" in shown:
        notes.append("Top-1 and Top-5 cls.: accuracy of the network on the images that have a label.")
    if "seg_miou" in shown:
        notes.append("mIoU: of object and background over all pixels, each map above its own mean. IoU: of the object.")
    if "error_classification" in shown:
        notes.append(
            "Kinds of errors as in TS-CAM (Gao et al., ICCV 2021), the first that applies. Classification: the label "
            "is not the prediction. Multi-instance: the box covers more than 0.3 of several objects. Part: more than "
            "0.5 of the box lies in the object. More: the box covers 0.7 of the object or more. All kinds and the "
            "correct images, those of Top-1 Loc, make 100 %."
        )
    return [*notes, _intervals(rows)]


def _class_notes(rows: Sequence[Row], about: ScoringSpec) -> list[str]:
    notes = [_what(rows), f"{_count(rows, 'images')} images of {about.name}, {_count(rows, 'classes')} classes."]
    if rows[0]["points_outside"] is None:
        notes.append(
            "mIoU: of background and classes over all pixels together, at a threshold chosen on "
            f"{_split(rows, about)} and measured on the others; best mIoU: at the best threshold of all images."
        )
    else:
        notes.append("p-mIoU: of points, a pixel above 0.5 is foreground (Benenson & Ferrari, arXiv 2210.14142).")
    return [*notes, _intervals(rows)]


def _what(rows: Sequence[Row]) -> str:
    """Return a sentence that names the target and the network of the maps; for each source, if there are several."""
    sources: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["source"] is not None:  # not a box that is the same for all
            what = _what_of(row["target"])
            names = sources.setdefault((what, row["network"] or "unknown"), [])
            names += [row["source"]] if row["source"] not in names else []
    prefixes = [f"{', '.join(names)}: " if len(sources) > 1 else "" for names in sources.values()]
    phrases = [f"{prefix}{what}, network {network}" for prefix, (what, network) in zip(prefixes, sources, strict=True)]
    text = "; ".join(phrases)
    return f"{text[:1].upper() if len(sources) == 1 else text[:1]}{text[1:]}."


def _what_of(target: str | None) -> str:
    if target is None:
        return "maps, masks or boxes"
    return "maps of several classes" if target in get_args(TargetGroup) else f"maps of the {in_words(target)}"


def count_without_mask(rows: Sequence[Row]) -> int:
    """Return how many scored images have an object without a mask, where others have masks: pixels count of these only.

    Args:
        rows: as ``schemas.scores.LOCALIZATION``.
    """
    return max((row["images"] - row["masks"] for row in rows if row["masks"]), default=0)


def _images(rows: Sequence[Row], about: ScoringSpec) -> str:
    without_maps, without_object = (max(row[name] for row in rows) for name in ("without_maps", "without_object"))
    counted = "only PxAP counts them" if any(row["masks"] for row in rows) else "not scored"
    left_out = f"; {without_maps:,} without a map: not scored" if without_maps else ""
    left_out += f"; {without_object:,} without an object: {counted}" if without_object else ""
    without_mask = count_without_mask(rows)
    left_out += f"; {without_mask:,} with an object without a mask: no scores of pixels" if without_mask else ""
    return f"{_count(rows, 'images')} images of {about.name}{left_out}."


def _thresholds(rows: Sequence[Row], about: ScoringSpec) -> str:
    tuned = [column for column in _LOCALIZATION if column.name in ("top1_loc", "top5_loc", "gt_known", "iou")]
    names = ", ".join(column.title for column in present_columns(tuned, rows))
    if not names:
        return "No threshold is chosen on other images: there is no tuning split."
    tested = _count(rows, "test_images")
    return f"{names} and kinds of errors: threshold chosen on {_split(rows, about)}, measured on the other {tested}."


def _split(rows: Sequence[Row], about: ScoringSpec) -> str:
    """Return which images thresholds are chosen on."""
    where = "chosen by the hash of their keys" if about.tuning.name is None else f"of {about.tuning.name}"
    return f"{_count(rows, 'tuning_images')} images {where}"


def _intervals(rows: Sequence[Row]) -> str:
    has_controls = any(row["kind"] == "control" for row in rows)
    return (
        f"Intervals: 95 %, percentiles of {REPLICATES:,} replicates of a Poisson bootstrap over {TESTED_GROUPS.stop} "
        f"random groups of images, at fixed thresholds. Bold: the best method of a column."
        f"{' Controls (*) know less than any method should.' if has_controls else ''}"
    )


def _count(rows: Sequence[Row], name: str) -> str:
    counts = sorted({row[name] for row in rows if row[name] is not None})
    return f"{counts[0]:,}" if len(counts) < 2 else f"{counts[0]:,} to {counts[-1]:,}"
