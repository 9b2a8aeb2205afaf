"""``vitatlas label``."""

import click

from jobs import output
from jobs.params import (
    PATH_OR_URL,
    address_option,
    allow_pipe_option,
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
from schemas.run import MaskValues, TruthOrientation


@click.command("label")
@click.argument("atlas", type=PATH_OR_URL)
@path_option("--policy", "policy_file", required=True, metavar="FILE", text="YAML file of the policy.")
@names_option(
    "--format",
    "formats",
    default="png,coco",
    names=lambda context: LABEL_FORMATS,
    text=f"Formats to write: {', '.join(LABEL_FORMATS)}.",
)
@path_option("--out", metavar="DIR", text="Output folder. Default: ATLAS/labels/NAME of the policy.")
@path_option("--tune", metavar="FILE|DIR", text="Truth of a small split, to calibrate the threshold of a policy.")
@truth_options
@tune_atlas_option
@classes_option
@partial_option
@address_option
@allow_pipe_option
@output.json_option
def label_command(
    atlas: str,
    policy_file: str,
    formats: str,
    out: str | None,
    tune: str | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    tune_atlas: str | None,
    classes_file: str | None,
    partial: bool,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Make pseudo-masks from the maps, by a policy.

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
    """
    from pipeline.label import CalibrationSource, label, read_policy
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas
    from pipeline.store.label_accuracy import measure_label_accuracy
    from pipeline.truth import read_truth
    from schemas.errors import UsageError
    from schemas.layout import LABELS

    policy = read_policy(policy_file)
    if tune_atlas and not tune:
        raise UsageError("--tune-atlas needs the truth of its images: add --tune FILE|DIR")
    out = out or f"{atlas.rstrip('/')}/{LABELS}/{policy.name}"
    opened, tune_opened = Atlas.open(atlas), Atlas.open(tune_atlas) if tune_atlas else None
    for each in (opened, tune_opened):
        output.check_complete(each, partial)
    output.print_accuracy(measure_label_accuracy(opened), to_stderr=json_)
    chosen = list(split_names(formats))
    if not chosen:
        raise UsageError(f"--format is empty; choose from {', '.join(LABEL_FORMATS)}")
    calibration = None
    if tune:
        key_separator = (tune_opened or opened).run.spec.key_separator
        tune_truth = read_truth(tune, truth_orientation, mask_values, key_separator)
        calibration = CalibrationSource(tune_truth, tune_opened)
    class_names = read_class_names(classes_file)
    summary = label(opened, policy, chosen, out, calibration, class_names, ComputeOptions(address, allow_pipe))
    threshold = summary.policy.threshold.value
    if json_:
        head = {"out": out, "policy": policy.name, "formats": chosen, "calibration": summary.calibration}
        counts = {"counts": summary.counts, "area": summary.area, "ignored": summary.ignored}
        output.print_json(head | {"threshold": threshold} | counts)
        return
    output.print_table(f"labels by {policy.name}", ["status", "count"], list(summary.counts.items()))
    if summary.calibration:
        echo(f"threshold {threshold}: {summary.calibration}")
    if summary.area is not None:
        echo(f"mean foreground {100 * summary.area:.1f} % of an image, ignored {100 * (summary.ignored or 0):.1f} %")
    echo(f"written to {out}: labels/, {', '.join(f'{name}/' for name in chosen)}, policy.json, summary.json")
