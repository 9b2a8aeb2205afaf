"""``vitatlas head registers``: test-time registers, found by the norms of tokens."""

from typing import Any

import click

from jobs import output
from jobs.params import (
    PATH_OR_URL,
    Number,
    choice_option,
    count_option,
    model_options,
    path_option,
    sample_options,
)
from pipeline.utils.terminal import echo
from schemas.found_registers import FindRegistersSpec, FoundRegisters
from schemas.run import ModelSpec


@click.command("registers", short_help="Find test-time registers: neurons that give patches large norms.")
@click.argument("shards", nargs=-1, type=PATH_OR_URL, required=True, metavar="SHARD…")
@model_options
@path_option("--out", required=True, metavar="FILE", text="File to write, JSON, for --registers of plan and run.")
@count_option("--images", default=200, text="Images to draw from the shards; 100 to 500 are enough.")
@count_option("--neurons", default=10, text="Neurons to choose; 50 for a ViT-L (the authors).")
@click.option(
    "--threshold",
    type=Number(0, min_open=True),
    metavar="NORM",
    help="Norm above which a patch token is an outlier. Default: median and 8 · 1.4826 median absolute deviations.",
)
@click.option(
    "--block",
    type=int,
    metavar="N",
    help="Block after which outliers are looked for, from 0, or negative from the end. Default: where most "
    "images have one.",
)
@click.option(
    "--highest-block",
    type=int,
    metavar="N",
    help="Last block whose neurons may be chosen. Default: the first with half of the outliers.",
)
@click.option("--seed", type=int, default=0, metavar="N", help="Seed of the drawing.")
@click.option("--geometry", type=click.Choice(["squash", "crop"]), default="squash")
@sample_options
@count_option("--batch-size", default=32, text="Images in one forward.")
@choice_option("--device", ["auto", "cpu", "cuda"], "Device of the network.", "auto")
@output.json_option
def registers_command(device: str, json_: bool, **flags: Any) -> None:
    """Find the neurons that give some patch tokens very large norms, and write them for a test-time register.

    Such tokens hold no local content and show as isolated patches in maps of attention. With --registers FILE, plan and
    run add a token that takes these neurons over; the logits change, so it is another network, with an atlas of its
    own. A head file that the network needs is given to these as always.

    \b
    Examples:
      vitatlas head registers 'val-{0000..0007}.tar' --model vit_base_patch14_dinov2.lvd142m --pretrained \\
          --out registers.json
      vitatlas run 'val-{0000..0007}.tar' --model vit_base_patch14_dinov2.lvd142m --pretrained \\
          --head probe.safetensors --registers registers.json --out registers.atlas
    """
    spec = _spec(flags)
    from pipeline.head.find_registers import find_registers
    from pipeline.utils.progress import progress_bars

    with progress_bars() as add_bar:
        found = find_registers(spec, device, add_bar("batches"))
    if json_:
        output.print_json({"out": spec.out} | found.model_dump(mode="json"))
    else:
        _print(spec, found)
    if found.images_with_outliers < found.images / 10:
        echo(
            "warning  few images have outliers: the network may have no artefact tokens, and needs no register",
            err=True,
        )
    if found.share_with_registers > found.share / 2:
        echo("warning  most outliers are still there; try more --neurons, or a higher --highest-block", err=True)


def _spec(flags: dict[str, Any]) -> FindRegistersSpec:
    source = ("pretrained", "checkpoint", "checkpoint_key", "image_size", "global_pool")
    model = {"name": flags.pop("model")} | {name: flags.pop(name) for name in source}
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    return FindRegistersSpec.read(given | {"model": ModelSpec.read(model, "the flags")}, "the flags")


def _print(spec: FindRegistersSpec, found: FoundRegisters) -> None:
    echo(f"file     {spec.out}")
    echo(
        f"outliers norm above {found.threshold:.4g} after block {found.block}; the largest is {found.ratio:.1f} medians"
    )
    echo(f"images   {found.images_with_outliers:,} of {found.images:,} have one")
    echo(f"patches  {found.share:.2%} are outliers; with the register {found.share_with_registers:.2%}")
    echo(f"neurons  of blocks 0 to {found.highest_block}")
    echo(f"use      --registers {spec.out}")
