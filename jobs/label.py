"""``vitatlas label``."""

import click

from jobs import output
from jobs.completion import among
from jobs.names import class_names, listed
from jobs.params import FILE, FOLDER, PLACE

FORMATS = ("png", "coco", "voc", "parquet", "imagenet_s", "wsol", "cvat", "labelstudio", "fiftyone", "sam")
"""As pipeline.label has them; to import that for ``--help`` would take seconds."""


@click.command("label")
@click.argument("atlas", type=PLACE)
@click.option("--policy", "policy_file", type=FILE, required=True, metavar="FILE", help="YAML of the policy.")
@click.option(
    "--format",
    "formats",
    default="png,coco",
    show_default=True,
    metavar="A,B",
    shell_complete=among(lambda context: FORMATS),
    help=f"Of {', '.join(FORMATS)}.",
)
@click.option("--out", type=FOLDER, metavar="DIR", help="Default: ATLAS/labels/NAME of the policy.")
@click.option("--tune", type=PLACE, metavar="FILE|DIR", help="Truth of a small split, to calibrate a policy's cut on.")
@click.option(
    "--tune-atlas", type=PLACE, metavar="ATLAS", help="With --tune: of that split. Default: the one that is labelled."
)
@click.option(
    "--classes", "classes_file", type=FILE, metavar="FILE", help="Names of the classes, a line each. Default: numbers."
)
@click.option("--address", metavar="local|auto|HOST:PORT", help="Of a Ray cluster. Default: none for up to 64 shards.")
@click.option("--allow-pipe", is_flag=True, help="Run the pipe: commands of the atlas to read its pictures.")
@output.json_option
def command(
    atlas: str,
    policy_file: str,
    formats: str,
    out: str | None,
    tune: str | None,
    tune_atlas: str | None,
    classes_file: str | None,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Make pseudo-masks from the maps, by a policy.

    Stopped at any moment, the same command goes on from the last finished shard.

    \b
    Examples:
      cat > sharp.yaml <<EOF
      name: legrad-sharp
      methods: [legrad]
      refine: {kind: pamr}
      cut: {kind: otsu}
      clean: {keep: largest, min_area: 0.01}
      EOF
      vitatlas label train.atlas --policy sharp.yaml --format png,coco --out masks
      vitatlas label train.atlas --policy calibrated.yaml --tune imagenetv2/ --tune-atlas v2.atlas
    """
    from pipeline.label import CalibrationSource, label, read_policy
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas
    from pipeline.truth import read_truth
    from schemas.errors import UsageError
    from schemas.layout import LABELS

    policy = read_policy(policy_file)
    if tune_atlas and not tune:
        raise UsageError("--tune-atlas needs the truth of its pictures, with --tune FILE|DIR")
    out = out or f"{atlas.rstrip('/')}/{LABELS}/{policy.name}"
    output.note_partial(atlas)
    chosen = list(listed(formats))
    if not chosen:
        raise UsageError(f"--format names no format; there are {', '.join(FORMATS)}")
    calibration = CalibrationSource(read_truth(tune), Atlas.open(tune_atlas) if tune_atlas else None) if tune else None
    made = label(
        Atlas.open(atlas),
        policy,
        chosen,
        out,
        calibration,
        class_names(classes_file),
        ComputeOptions(address, allow_pipe),
    )
    if json_:
        figures = {"counts": made.counts, "area": made.area, "ignored": made.ignored}
        about = {"out": out, "policy": policy.name, "formats": chosen, "calibration": made.calibration}
        output.as_json(about | {"threshold": made.policy.threshold.value} | figures)
        return
    output.table(f"labels by {policy.name}", ["status", "count"], [[k, v] for k, v in made.counts.items()])
    if made.calibration:
        click.echo(f"threshold {made.policy.threshold.value}: {made.calibration}")
    if made.area is not None:
        click.echo(f"object is {100 * made.area:.1f} % of a picture, ignored {100 * (made.ignored or 0):.1f} %")
    click.echo(f"written to {out}: labels/, {', '.join(f'{name}/' for name in chosen)}, policy.json, summary.json")
