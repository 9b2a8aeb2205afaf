"""``vitatlas annotate``."""

import click

from jobs import output
from jobs.params import (
    address_option,
    allow_pipe_option,
    atlases_argument,
    choice_option,
    classes_option,
    count_option,
    partial_option,
    path_option,
    read_class_names,
    target_option,
)
from pipeline.utils.terminal import echo
from schemas.annotations import ImageSelection


@click.command("annotate")
@atlases_argument
@path_option("--out", metavar="DIR", text="Output folder.", required=True)
@count_option("--images", default=50, text="Images to annotate.")
@choice_option(
    "--select",
    ["random", "disagreement"],
    "At random, for scores; or those whose methods disagree most, to find faults.",
    "random",
)
@target_option
@count_option("--seed", default=0, minimum=0, text="Random seed of the choice.")
@classes_option
@partial_option
@address_option
@allow_pipe_option
@output.json_option
def annotate_command(
    atlases: tuple[str, ...],
    out: str,
    images: int,
    select: ImageSelection,
    target: str,
    seed: int,
    classes_file: str | None,
    partial: bool,
    address: str | None,
    allow_pipe: bool,
    json_: bool,
) -> None:
    """Write a page on which a person draws boxes on images of an atlas.

    Open index.html in a browser; no server is needed. Save there writes COCO, which rank --truth, score --truth and
    label --tune read. The page holds the images, at most 1024 pixels wide or high.

    \b
    Examples:
      vitatlas annotate val.atlas --images 50 --out boxes
      vitatlas rank val.atlas --truth annotations.json
      vitatlas score val.atlas --truth annotations.json --subset
    """
    from pipeline.annotate import write_page
    from pipeline.run.execution import ComputeOptions
    from pipeline.store import Atlas

    opened, names = Atlas.open(atlases, subset=True), read_class_names(classes_file)
    output.refuse_networks(opened, "a page is of the images of one atlas")
    output.check_complete(opened, partial)
    options = ComputeOptions(address, allow_pipe=allow_pipe)
    page, count = write_page(opened, out, images, select, target, seed, names, options, output.print_note)
    if json_:
        output.print_json({"page": page, "images": count})
        return
    named = " ".join(f"'{atlas}'" for atlas in atlases)
    echo(f"page     {page}, {count} images")
    rank = f"vitatlas rank {named} --truth annotations.json, or " if len(atlases) == 1 else ""
    echo(f"next     open it, draw, save; then {rank}vitatlas score {named} --truth annotations.json --subset")
