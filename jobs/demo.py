"""``vitatlas demo``."""

from pathlib import Path
from typing import Literal

import click

from jobs import output
from jobs.estimate import expect, show_estimate
from jobs.plan import describe
from schemas.bench import EndToEndTiming
from schemas.run import RunRecord


@click.command("demo")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="demo", metavar="[DIR]")
@click.option(
    "--executor",
    type=click.Choice(["ray", "inline"]),
    default="ray",
    show_default=True,
    help="Ray actors, or this process alone.",
)
@output.json_option
def command(folder: Path, executor: Literal["ray", "inline"], json_: bool) -> None:
    """See the whole job on a small world with known truth.

    Draws scenes into shards, computes the maps of every method, makes pseudo-masks, scores them against the
    truth, and draws a picture of it. DIR (./demo) gets shards, truth, atlas, labels, sheet.png and
    summary.json. Needs no network and no GPU.

    \b
    Example:
      vitatlas demo /tmp/demo
    """
    from pipeline.demo.run_demo import run_demo

    def expected(run: RunRecord, pilot: EndToEndTiming) -> None:
        show_estimate(expect(run, pilot))

    if json_:
        output.as_json(run_demo(folder, executor, say=lambda line: click.echo(line, err=True)))
        return
    summary = run_demo(folder, executor, say=click.echo, planned=describe, expected=expected)
    rows = [
        [name, each["kind"], each["pxap"], each["maxboxacc_v2"], round(each["images_per_s"])]
        for name, each in summary["methods"].items()
    ]
    output.table(f"{summary['images']} scenes", ["method", "kind", "PxAP %", "MaxBoxAccV2 %", "images/s"], rows)
    columns = ["mean_iou", "precision", "precision_without_ignoring", "coverage"]
    masks = [[name, *(each[column] for column in columns)] for name, each in summary["masks"].items()]
    titles = ["mean IoU %", "right pixels %", "with ignored as background", "pixels labelled %"]
    output.table("pseudo-masks against the truth", ["policy", *titles], masks)
    compared = [[name.replace("_", " "), *each.values()] for name, each in summary["estimate"].items()]
    output.table("what plan expected of the maps, and what they took", ["", "expected", "measured", "ratio"], compared)
    click.echo(f"all of it in {summary['seconds']:.0f} s")
    for name, path in summary["paths"].items():
        click.echo(f"  {name:<12} {path}")
