"""``vitatlas label``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs import output
from jobs.params import (
    Number,
    address_option,
    allow_pipe_option,
    atlases_argument,
    classes_option,
    names_option,
    partial_option,
    path_option,
    read_class_names,
    split_names,
    truth_options,
    tune_atlas_option,
)
from pipeline.label.formats import LABEL_FORMATS
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.layout import LABELS
from schemas.run import MaskValues, TruthOrientation

if TYPE_CHECKING:
    from pipeline.label import ImportSummary, LabelSummary
    from pipeline.label.label_product import LabelTotals


@click.command("label")
@atlases_argument
@path_option("--policy", "policy_file", metavar="FILE", text="YAML file of the policy.")
@path_option(
    "--from",
    "source",
    metavar="FILE|DIR",
    text="Instead of --policy: masks made elsewhere, as PNG by key, COCO results, or any truth with masks.",
)
@names_option(
    "--format",
    "formats",
    default="png,coco",
    names=lambda context: LABEL_FORMATS,
    text=f"Formats to write: {', '.join(LABEL_FORMATS)}.",
)
@path_option("--out", metavar="DIR", text="Output folder. Default: ATLAS/labels/NAME of the policy, or of --from.")
@path_option("--tune", metavar="FILE|DIR", text="Truth of a small split, to calibrate the threshold of a policy.")
@click.option("--tool", metavar="NAME", help="With --from: what made the masks, for their record.")
@click.option("--target", metavar="TARGET", help="With --from: target that has the class of the masks. Default: label.")
@path_option("--images", metavar="FILE", text="With --from, of COCO results: COCO file that their image ids are of.")
@click.option(
    "--min-score", type=Number(), metavar="X", help="With --from, of COCO results: leave out those with a lower score."
)
@truth_options
@tune_atlas_option
@click.option(
    "--subset", is_flag=True, help="Of atlases of several networks: leave out images that not all have maps of."
)
@classes_option
@partial_option
@address_option
@allow_pipe_option
@output.json_option
def label_command(
    atlases: tuple[str, ...],
    policy_file: str | None,
    source: str | None,
    formats: str,
    out: str | None,
    tune: str | None,
    tool: str | None,
    target: str | None,
    images: str | None,
    min_score: float | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    tune_atlases: tuple[str, ...],
    subset: bool,
    classes_file: str | None,
    partial: bool,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Make pseudo-masks from the maps, by a policy; or take masks made elsewhere (--from) as labels of the atlas.

    Masks made elsewhere get the same formats, table and records. Samples without a mask and masks without a sample are
    counted and named.

    Several atlases of one run over different shards are one. The methods of atlases of several networks are named
    NAME:method in the policy; rows, classes and probabilities are those of the first.

    Run the same command again to resume after an interruption.

    \b
    Examples:
      cat > sharp.yaml <<EOF
      name: legrad-sharp
      methods: [legrad]
      refine: {kind: pamr}
      threshold: {kind: otsu}
      postprocess: {keep: largest, min_area: 0.01}
      EOF
      vitatlas label train.atlas --policy sharp.yaml --format png,coco --out masks
      vitatlas label train.atlas --policy calibrated.yaml --tune imagenetv2/ --tune-atlas v2.atlas
      vitatlas label vit=vit.atlas dino=dino.atlas --policy both.yaml --out both  # methods: [vit:legrad, dino:rollout]
      vitatlas label train.atlas --from predicted/ --tool "U-Net" --out unet
      vitatlas label train.atlas --from results.json --images masks/coco/instances.json --min-score 0.5 --out detr
    """
    from pipeline.label import CalibrationSource, import_masks, label, read_policy
    from pipeline.label.label_warnings import review_policy
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas
    from pipeline.store.label_accuracy import measure_label_accuracy
    from pipeline.truth import read_masks, read_truth

    if (policy_file is None) == (source is None):
        raise UsageError("name either how maps become masks, --policy FILE, or masks made elsewhere, --from FILE|DIR")
    of_source = {"--tool": tool, "--target": target, "--images": images, "--min-score": min_score}
    others = {"--tune": tune, "--tune-atlas": tune_atlases or None} if source else of_source
    if extra := next((flag for flag, value in others.items() if value is not None), None):
        raise UsageError(f"{extra}: belongs to {'--policy' if source else '--from'}; leave it out")
    if tune_atlases and not tune:
        raise UsageError("--tune-atlas needs the truth of its images: add --tune FILE|DIR")
    policy = read_policy(policy_file) if policy_file else None
    opened = Atlas.open(atlases, subset=subset)
    tune_opened = Atlas.open(tune_atlases, subset=subset) if tune_atlases else None
    if subset and not (opened.networks or (tune_opened and tune_opened.networks)):
        raise UsageError("--subset leaves out images that not all atlases have, and there are none of several networks")
    out = out or f"{output.only_url(opened)}/{LABELS}/{policy.name if policy else _folder_name(source)}"
    for each in (opened, tune_opened):
        output.check_complete(each, partial)
        output.print_left_out(each)
    output.print_accuracy(measure_label_accuracy(opened), to_stderr=json_)
    chosen = list(split_names(formats))
    if not chosen:
        raise UsageError(f"--format is empty; choose from {', '.join(LABEL_FORMATS)}")
    key_separator = (tune_opened or opened).run.spec.key_separator
    class_names, options = read_class_names(classes_file), ComputeOptions(address, allow_pipe)
    if policy is None:
        output.refuse_networks(opened, "--from takes the images of one atlas")
        assert source is not None
        masks = read_masks(source, images, min_score, truth_orientation, mask_values, key_separator)
        imported = import_masks(
            opened, masks, chosen, out, target or "label", tool, class_names, options, output.print_note
        )
        _show_imported(imported, out, chosen, json_)
        return
    calibration = None
    if tune:
        calibration = CalibrationSource(read_truth(tune, truth_orientation, mask_values, key_separator), tune_opened)
    review = review_policy(opened, policy)
    for warning in review.warnings:
        output.print_warning(warning)
    if review.choice:
        output.print_note(review.choice)
    summary = label(opened, policy, chosen, out, calibration, class_names, options, output.print_note)
    _show(summary, out, chosen, json_, list(review.warnings))


def _folder_name(source: str | None) -> str:
    """Return the name of the folder of labels with masks from a path."""
    from schemas.policy import NAME

    name = Path(source or "").resolve().stem
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{source}: its name cannot be that of a folder of labels; name the folder by --out DIR")
    return name


def _show(summary: "LabelSummary", out: str, formats: list[str], json_: bool, warnings: list[str]) -> None:
    policy, threshold = summary.policy.name, summary.policy.threshold.value
    found = _warn(summary)
    if json_:
        fields = {"policy": policy, "calibration": summary.calibration, "threshold": threshold}
        _print_document(summary, out, formats, [*warnings, *found], **fields)
        return
    output.print_table(f"labels by {policy}", ["status", "count"], list(summary.counts.items()))
    if summary.calibration:
        echo(f"threshold {threshold}: {summary.calibration}")
    _print_end(summary, f"written to {out}: labels/, {_folders(formats)}, policy.json, summary.json")


def _show_imported(summary: "ImportSummary", out: str, formats: list[str], json_: bool) -> None:
    source, found = summary.source, _warn(summary)
    if json_:
        _print_document(summary, out, formats, found, source=source.model_dump(mode="json"), unused=summary.unused)
        return
    made_by = f", made by {source.tool}" if source.tool else ""
    output.print_table(f"labels from {source.source}{made_by}", ["status", "count"], list(summary.counts.items()))
    _print_end(summary, f"written to {out}: labels/, {_folders(formats)}, about.json, unused.csv, summary.json")


def _warn(summary: "LabelTotals") -> list[str]:
    """Print warnings of the masks, and return them."""
    from pipeline.label.label_warnings import mask_warnings

    found = list(mask_warnings(summary))
    for warning in found:
        output.print_warning(warning)
    return found


def _print_document(
    summary: "LabelTotals", out: str, formats: list[str], warnings: list[str], **fields: object
) -> None:
    """Print the same fields whatever the masks are made from; what does not apply is null."""
    origin = dict.fromkeys(("policy", "calibration", "threshold", "source", "unused")) | fields
    numbers = {"counts": summary.counts, "area": summary.area, "ignored": summary.ignored}
    output.print_json({"out": out, "formats": formats} | origin | numbers | {"warnings": warnings})


def _folders(formats: list[str]) -> str:
    return ", ".join(f"{name}/" for name in formats)


def _print_end(summary: "LabelTotals", written: str) -> None:
    if summary.area is not None:
        echo(f"mean foreground {100 * summary.area:.1f} % of an image, ignored {100 * (summary.ignored or 0):.1f} %")
    echo(written)
