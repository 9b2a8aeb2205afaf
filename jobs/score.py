"""``vitatlas score``."""

from typing import Any

import click

from jobs import output
from jobs.completion import methods_of_atlas
from jobs.params import (
    PATH_OR_URL,
    Number,
    address_option,
    classes_option,
    names_option,
    partial_option,
    path_option,
    read_class_names,
    split_names,
    target_option,
    truth_options,
    tune_atlas_option,
)
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.run import MaskValues, TruthOrientation

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


@click.command("score")
@click.argument("atlas", type=PATH_OR_URL)
@path_option(
    "--truth",
    required=True,
    metavar="FILE|DIR",
    text="Ground truth: boxes or masks (COCO, wsolevaluation, CSV, XML, PNG); points (OpenImages) or masks (VOC) of "
    "classes.",
)
@path_option("--tune", metavar="FILE|DIR", text="Truth of the tuning split for thresholds. Default: 1 % of the images.")
@truth_options
@tune_atlas_option
@target_option
@names_option("--methods", names=methods_of_atlas, text="Methods to score. Default: all of the atlas.")
@click.option(
    "--grid-step",
    type=Number(min=0, min_open=True),
    metavar="STEP",
    help="Step of the thresholds of boxes and of PxAP, such as the 0.01 of wsolevaluation. Default: 0.001, all levels.",
)
@click.option("--subset", is_flag=True, help="Score only the images and classes that truth and atlas both have.")
@classes_option
@path_option("--out", metavar="DIR", text="Output folder. Default: ATLAS/scores/TRUTH-TARGET.")
@partial_option
@address_option
@output.json_option
def score_command(
    atlas: str,
    truth: str,
    tune: str | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    tune_atlas: str | None,
    target: str,
    methods: str | None,
    grid_step: float | None,
    subset: bool,
    classes_file: str | None,
    out: str | None,
    partial: bool,
    address: str | None,
    json_: bool,
) -> None:
    """Score localization against ground-truth boxes and masks.

    The protocol of Choe et al. (CVPR 2020): PxAP, MaxBoxAcc and MaxBoxAccV2 at the best threshold on these images;
    GT-known, Top-1, Top-5 and IoU at a threshold chosen on a separate tuning split; also ImageNet-Segmentation,
    pointing game and energy. Each number has its 95 % bootstrap interval.

    Truth that has classes gives scores of open vocabulary instead: p-mIoU of the points of OpenImages V7, mIoU of the
    class masks of PASCAL VOC. All targets of a kind take part (--target label, predicted, top or class).

    Run the same command again to resume after an interruption.

    \b
    Examples:
      vitatlas score val.atlas --truth instances.json
      vitatlas score val.atlas --truth metadata/ILSVRC/test --tune metadata/ILSVRC/val --tune-atlas v2.atlas
      vitatlas score voc.atlas --truth VOCdevkit/VOC2012 --subset
    """
    from pipeline.run.execution import ComputeOptions
    from pipeline.score import default_output_dir, score, score_classes
    from pipeline.score.score_classes import find_targets
    from pipeline.score.threshold_grid import ThresholdGrid
    from pipeline.store import Atlas
    from pipeline.store.label_accuracy import measure_label_accuracy
    from pipeline.truth import read_truth

    opened, tune_opened = Atlas.open(atlas), Atlas.open(tune_atlas) if tune_atlas else None
    for each in (opened, tune_opened):
        output.check_complete(each, partial)
    truth_set = read_truth(truth, truth_orientation, mask_values, opened.run.spec.key_separator)
    output.print_accuracy(measure_label_accuracy(opened), to_stderr=json_)
    name = find_targets(opened, target)[0] if truth_set.classes else opened.find_target(target)
    folder = out or default_output_dir(atlas, truth_set, name)
    tune_truth = None
    if tune:
        tune_truth = read_truth(tune, truth_orientation, mask_values, (tune_opened or opened).run.spec.key_separator)
    if truth_set.classes:
        if grid_step is not None:
            raise UsageError(f"--grid-step: scores of {truth}, which has classes, have no grid; leave it out")
        if tune_atlas:
            raise UsageError("--tune-atlas: scores of classes are tuned on images of the same atlas; leave it out")
        class_names = read_class_names(classes_file)
        rows = score_classes(
            opened,
            truth_set,
            target,
            split_names(methods),
            tune_truth,
            subset,
            folder,
            class_names,
            ComputeOptions(address),
            output.print_note,
        ).to_pylist()
        output.print_json(rows) if json_ else _show_classes(atlas, folder, rows)
        return
    grid = ThresholdGrid() if grid_step is None else ThresholdGrid(grid_step)
    if classes_file:
        raise UsageError(f"--classes: {truth} has no classes; leave it out")
    tuning = tune_truth, tune_opened
    names, options = split_names(methods), ComputeOptions(address)
    rows = score(
        opened, truth_set, target, names, *tuning, subset, folder, options, output.print_note, grid
    ).to_pylist()
    if json_:
        output.print_json(rows)
        return
    columns = {title: name for title, name in _COLUMNS.items() if any(row[name] is not None for row in rows)}
    first = rows[0]
    title = (
        f"localization in {atlas}, %: {first['images']} images, thresholds tuned on {first['tuning_images']}, "
        f"tested on {first['test_images']}, network {first['network']}"
    )
    output.print_table(title, ["method", "threshold", *columns], [_cells(row, list(columns.values())) for row in rows])
    echo(
        "* control. PxAP, MaxBoxAcc, MaxBoxAccV2: at the best threshold on these images; seg mIoU: at each map's mean."
    )
    echo("threshold, GT-known, Top-1, Top-5, IoU (over all pixels): chosen on the tuning split, measured on the rest.")
    echo(f"written to {folder}: localization.parquet, .tex and .md; curves.parquet, .png and .pdf")
    if first["without_maps"]:
        echo(f"{first['without_maps']} images are not scored: no maps")
    if first["without_object"]:
        counted = "only PxAP and IoU count them, as background" if first["masks"] else "they are not scored"
        echo(f"{first['without_object']} images have no object in the truth: {counted}")


def _show_classes(atlas: str, folder: str, rows: list[dict[str, Any]]) -> None:
    columns = {title: name for title, name in _CLASS_COLUMNS.items() if any(row[name] is not None for row in rows)}
    first = rows[0]
    title = f"open vocabulary in {atlas}, %: {first['images']} images, {first['classes']} classes"
    output.print_table(
        f"{title}, network {first['network']}",
        ["method", "threshold", *columns],
        [_cells(row, list(columns.values())) for row in rows],
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


def _cells(row: dict[str, Any], columns: list[str]) -> list[Any]:
    name = row["method"] + (" *" if row["kind"] == "control" else "")
    return [name, row["threshold"], *(_with_interval(row[column], row["interval"][column]) for column in columns)]


def _with_interval(value: float | None, interval: list[float] | None) -> str | None:
    if value is None or interval is None:
        return None
    return f"{value:.1f} {interval[0]:.0f}–{interval[1]:.0f}"
