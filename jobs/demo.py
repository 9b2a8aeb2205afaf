"""``vitatlas demo``."""

from pathlib import Path
from typing import Literal

import click

from jobs import output
from jobs.estimate import estimate_cost, print_estimate
from jobs.params import choice_option
from jobs.plan import print_plan
from pipeline.utils.terminal import echo
from schemas.bench import EndToEndTiming
from schemas.run_record import RunRecord


@click.command("demo")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="demo", metavar="[DIR]")
@choice_option("--executor", ["ray", "inline"], "Ray actors, or this process.", "ray")
@output.json_option
def demo_command(folder: Path, executor: Literal["ray", "inline"], json_: bool) -> None:
    """Run the whole pipeline on a small synthetic dataset with known truth.

    Generates shards, computes the maps of every method, makes pseudo-masks, scores them against the truth, and plots a
    contact sheet. Writes shards, truth, atlas, labels, sheet.png and summary.json to DIR (./demo). Needs no network
    connection and no GPU.

    \b
    Example:
      vitatlas demo /tmp/demo
    """
    from pipeline.demo.run_demo import run_demo

    def print_expected(run: RunRecord, timing: EndToEndTiming) -> None:
        print_estimate(estimate_cost(run, timing))

    if json_:
        output.print_json(run_demo(folder, executor, log=lambda line: echo(line, err=True)))
        return
    summary = run_demo(folder, executor, log=echo, on_plan=print_plan, on_timing=print_expected)
    rows = [
        [name, result["kind"], result["pxap"], result["maxboxacc_v2"], round(result["images_per_s"])]
        for name, result in summary["methods"].items()
    ]
    output.print_table(f"{summary['images']} scenes", ["method", "kind", "PxAP %", "MaxBoxAccV2 %", "images/s"], rows)
    columns = ["mean_iou", "precision", "precision_without_ignoring", "coverage"]
    masks = [[name, *(quality[column] for column in columns)] for name, quality in summary["masks"].items()]
    titles = ["mean IoU %", "correct pixels %", "with ignored as background", "labelled pixels %"]
    output.print_table("pseudo-masks against the truth", ["policy", *titles], masks)
    compared = [[name.replace("_", " "), *values.values()] for name, values in summary["estimate"].items()]
    output.print_table(
        "estimate of plan and measured cost of the maps", ["", "expected", "measured", "ratio"], compared
    )
    echo(f"total time {summary['seconds']:.0f} s")
    for name, path in summary["paths"].items():
        echo(f"  {name:<12} {path}")
