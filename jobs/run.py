"""``vitatlas run``."""

import os
from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.params import FILE, FOLDER, PLACE, Number
from jobs.plan import describe, planned
from jobs.run_options import run_spec, spec_options
from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.run.execution import Device, Executor


@click.command("run")
@click.argument("places", nargs=-1, type=PLACE, metavar="ATLAS | SHARD…")
@spec_options
@click.option(
    "--executor",
    type=click.Choice(["ray", "inline"]),
    default="ray",
    show_default=True,
    help="Ray actors, or this process alone.",
)
@click.option("--retry-failed", is_flag=True, help="Do the samples again that have no maps, and only these.")
@click.option("--address", metavar="local|auto|HOST:PORT", help="Of the Ray cluster. Default: RAY_ADDRESS, else local.")
@click.option(
    "--actors", type=click.IntRange(1), metavar="N", help="At most so many. Default: one a GPU, else one a core."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="cuda waits for GPUs that are not there yet.",
)
@click.option(
    "--decode-processes",
    type=click.IntRange(0),
    metavar="N",
    help="Of each actor. Default: 4 beside a GPU, else a thread.",
)
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    metavar="SECONDS",
    help="Over one shard, then another actor gets it. Default: 10 times the slowest so far, at least 600; first 6 hours.",
)
@click.option(
    "--patience",
    type=Number(0, min_open=True),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Without a single actor at work, then the run fails.",
)
@click.option(
    "--cache",
    type=FOLDER,
    metavar="DIR",
    help="Of each node: copy remote shards there, and read them from there again.",
)
@click.option(
    "--cache-gb", type=click.IntRange(1), default=200, show_default=True, metavar="N", help="With --cache: at most."
)
@click.option(
    "--log", type=FILE, metavar="FILE", help="Append a line of JSON for each attempt at a shard; - is standard error."
)
@output.json_option
def command(
    places: tuple[str, ...],
    spec_file: str | None,
    out: str | None,
    executor: "Executor",
    retry_failed: bool,
    address: str | None,
    actors: int | None,
    device: "Device",
    decode_processes: int | None,
    timeout: float | None,
    patience: float,
    log: str | None,
    cache: str | None,
    cache_gb: int,
    json_: bool,
    **flags: Any,
) -> None:
    """Compute the maps of every shard that has none yet.

    Takes a planned ATLAS; or shards and --out with the flags of plan, and then plans first. Stopped at any
    moment, the same command goes on from the last finished shard. Told to stop (Ctrl-C, SIGTERM), it gives the
    shards in work 20 seconds to be finished, and exits with 75.

    \b
    Examples:
      vitatlas run train.atlas
      vitatlas run train.atlas --retry-failed
      vitatlas run 'shards/val-{00..63}.tar' --out val.atlas --model deit_small_patch16_224 --pretrained
    """
    if out is None and spec_file is None:
        allowed = bool(flags.pop("allow_pipe"))
        given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value not in (None, ())]
        if given:
            raise UsageError(f"{given[0]} is for a new atlas, which --out must name; a planned one is run without it")
        if len(places) != 1:
            raise UsageError("name one planned atlas; or shards, and --out for the atlas to make of them")
        out = places[0]
    elif not out:
        raise UsageError("no atlas: say where it is to be made with --out")
    else:
        spec = run_spec(places, spec_file, flags)
        allowed = spec.allow_pipe
        record = planned(spec, out)
        if not json_:
            describe(record, out)

    from pipeline.run import ExecutionOptions, run
    from schemas.samples import SampleStatus

    if cache and "://" in cache:
        raise UsageError(f"--cache {cache}: is a URL; name a folder that is on each node's own disk")
    crew = ExecutionOptions(
        executor, address, actors, device, decode_processes, timeout, patience,
        allow_pipe=allowed, log=log, cache=os.path.abspath(cache) if cache else None, cache_gb=cache_gb,
    )  # fmt: skip
    atlas = run(out, crew, retry_failed)
    statuses = atlas.statuses()
    if json_:
        images = {"done": statuses.total(), "planned": atlas.run.samples}
        shards = {"done": len(atlas.committed), "planned": len(atlas.run.shards)}
        output.as_json({"atlas": atlas.objects.url, "shards": shards, "images": images, "statuses": dict(statuses)})
        return
    good = statuses.pop(SampleStatus.OK, 0)
    without = f"{statuses.total():,} without" + ("; vitatlas status says why" if statuses.total() else "")
    click.echo(f"complete {len(atlas.committed)} shards, {good:,} images with maps, {without}")
