"""``vitatlas score``."""

from typing import Literal

import click

from jobs import show


@click.command("score")
@click.argument("atlas")
@click.option("--truth", required=True, metavar="FILE|DIR", help="COCO instances, or a folder with instances.json.")
@click.option(
    "--target",
    type=click.Choice(["label", "predicted"]),
    default="label",
    show_default=True,
    help="Whose maps; label is GT-known.",
)
@click.option("--methods", default="", metavar="A,B", help="Default: all of the atlas.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(atlas: str, truth: str, target: Literal["label", "predicted"], methods: str, json_: bool) -> None:
    """Measure localization against boxes and masks: PxAP, MaxBoxAcc and MaxBoxAccV2.

    The protocol of Choe et al. (CVPR 2020) to the letter, thresholds chosen on these very images.

    \b
    Example:
      vitatlas score val.atlas --truth instances.json
    """
    from pipeline.score import score

    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    show.note_partial(atlas)
    table = score(atlas, truth, target, chosen)
    if json_:
        show.as_json(table.to_pylist())
        return
    rows = [list(row.values()) for row in table.to_pylist()]
    show.table(f"localization in {atlas}, %", table.column_names, rows)
