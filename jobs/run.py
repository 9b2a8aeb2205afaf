"""``vitatlas run``."""

from typing import Any, Literal

import click

from jobs.plan import planned
from jobs.spec import run_spec, spec_options
from schemas.errors import UsageError


@click.command("run")
@click.argument("places", nargs=-1, metavar="ATLAS | SHARD…")
@spec_options
@click.option(
    "--executor",
    type=click.Choice(["ray", "inline"]),
    default="ray",
    show_default=True,
    help="Ray actors, or this process alone.",
)
@click.option("--address", metavar="local|auto|HOST:PORT", help="Of the Ray cluster. Default: RAY_ADDRESS, else local.")
@click.option(
    "--actors", type=click.IntRange(1), metavar="N", help="At most so many. Default: one a GPU, else one a core."
)
@click.option(
    "--decode-processes",
    type=click.IntRange(0),
    metavar="N",
    help="Of each actor. Default: 4 beside a GPU, else a thread.",
)
def command(
    places: tuple[str, ...],
    spec_file: str | None,
    out: str | None,
    executor: Literal["ray", "inline"],
    address: str | None,
    actors: int | None,
    decode_processes: int | None,
    **flags: Any,
) -> None:
    """Compute the maps of every tar that has none yet.

    Takes a planned ATLAS; or shards and --out with the flags of plan, and then plans first. Stopped at any
    moment, the same command goes on from the last finished tar.

    \b
    Examples:
      vitatlas run train.atlas
      vitatlas run 'shards/val-{00..63}.tar' --out val.atlas --model deit_small_patch16_224 --pretrained
    """
    if out is None and spec_file is None:
        given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value not in (None, ())]
        if given:
            raise UsageError(f"{given[0]} is for a new atlas, which --out must name; a planned one is run without it")
        if len(places) != 1:
            raise UsageError("name one planned atlas; or shards, and --out for the atlas to make of them")
        out = places[0]
    elif not out:
        raise UsageError("no atlas: say where it is to be made with --out")
    else:
        planned(run_spec(places, spec_file, flags), out)

    from pipeline.run import run

    atlas = run(out, executor, address, actors, decode_processes)
    good = sum(commit.ok for commit in atlas.commits.values())
    failed = sum(commit.rows for commit in atlas.commits.values()) - good
    click.echo(f"complete {len(atlas.commits)} tars, {good:,} images with maps, {failed:,} without")
