"""``vitatlas score``."""

from typing import Any, Literal

import click

from jobs import output
from jobs.completion import among, of_atlas
from jobs.names import listed
from jobs.params import FOLDER, PLACE

_SHOWN = {
    "PxAP": "pxap",
    "MaxBoxAcc": "maxboxacc",
    "V2": "maxboxacc_v2",
    "GT-known": "gt_known",
    "Top-1": "top1_loc",
    "Top-5": "top5_loc",
    "IoU": "iou",
    "seg mIoU": "seg_miou",
    "pointing": "pointing",
}


@click.command("score")
@click.argument("atlas", type=PLACE)
@click.option(
    "--truth", type=PLACE, required=True, metavar="FILE|DIR", help="Boxes or masks: COCO, wsolevaluation, XML, PNG."
)
@click.option(
    "--tune", type=PLACE, metavar="FILE|DIR", help="Truth of the split for thresholds. Default: 1 % of the pictures."
)
@click.option(
    "--tune-atlas", type=PLACE, metavar="ATLAS", help="With --tune: of that split. Default: the one that is scored."
)
@click.option(
    "--target",
    type=click.Choice(["label", "predicted"]),
    default="label",
    show_default=True,
    help="Whose maps; label is GT-known.",
)
@click.option("--methods", default="", shell_complete=among(of_atlas), metavar="A,B", help="Default: all of the atlas.")
@click.option("--subset", is_flag=True, help="Score the pictures that truth and atlas both have.")
@click.option("--out", type=FOLDER, metavar="DIR", help="Default: ATLAS/scores/TRUTH-TARGET.")
@click.option("--address", metavar="local|auto|HOST:PORT", help="Of a Ray cluster. Default: none for up to 64 shards.")
@output.json_option
def command(
    atlas: str,
    truth: str,
    tune: str | None,
    tune_atlas: str | None,
    target: Literal["label", "predicted"],
    methods: str,
    subset: bool,
    out: str | None,
    address: str | None,
    json_: bool,
) -> None:
    """Measure localization against boxes and masks.

    The protocol of Choe et al. (CVPR 2020) to the letter, at thresholds that are best on these very pictures (PxAP,
    MaxBoxAcc, V2) and at those that are chosen on a small split (GT-known, Top-1, Top-5, IoU); ImageNet-Segmentation,
    pointing game, energy. Beside each number 95 % of the bootstrap.

    Stopped at any moment, the same command goes on from the last finished shard.

    \b
    Examples:
      vitatlas score val.atlas --truth instances.json
      vitatlas score val.atlas --truth metadata/ILSVRC/test --tune metadata/ILSVRC/val --tune-atlas v2.atlas
    """
    from pipeline.run.execution import ComputeOptions
    from pipeline.score import default_output_dir, score
    from pipeline.store import Atlas
    from pipeline.truth import read_truth

    output.note_partial(atlas)
    scored, known = Atlas.open(atlas), read_truth(truth)
    folder = out or default_output_dir(atlas, known, target)
    tuning = read_truth(tune) if tune else None, Atlas.open(tune_atlas) if tune_atlas else None
    options = ComputeOptions(address)
    rows = score(scored, known, target, listed(methods), *tuning, subset, folder, options, _note).to_pylist()
    if json_:
        output.as_json(rows)
        return
    shown = {title: name for title, name in _SHOWN.items() if any(row[name] is not None for row in rows)}
    first = rows[0]
    title = (
        f"localization in {atlas}, %: {first['images']} pictures, thresholds tuned on {first['tuning_images']}, tested on "
        f"{first['test_images']}, network {first['classifier']}"
    )
    output.table(title, ["method", "τ", *shown], [_cells(row, list(shown.values())) for row in rows])
    click.echo(
        "* control. PxAP, MaxBoxAcc, V2: the threshold that is best on these pictures; seg mIoU: the map's own mean."
    )
    click.echo("τ, GT-known, Top-1, Top-5, IoU (all pixels together): chosen on the split, measured on the others.")
    click.echo(f"written to {folder}: localization.parquet, curves.parquet, curves.png")
    for count, what in ((first["without_maps"], "no maps"), (first["without_object"], "no object in the truth")):
        if count:
            click.echo(f"{count} pictures are not in it: {what}")


def _note(line: str) -> None:
    click.echo(f"note     {line}", err=True)


def _cells(row: dict[str, Any], names: list[str]) -> list[Any]:
    name = row["method"] + (" *" if row["kind"] == "control" else "")
    return [name, row["threshold"], *(_with_interval(row[each], row["interval"][each]) for each in names)]


def _with_interval(value: float | None, interval: list[float] | None) -> str | None:
    if value is None or interval is None:
        return None
    return f"{value:.1f} {interval[0]:.0f}–{interval[1]:.0f}"
