"""``vitatlas run``."""

import os
from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.params import PATH_OR_URL, Number, choice_option, count_option, path_option
from jobs.plan import plan_with_progress, print_plan
from jobs.run_options import run_spec, spec_options
from pipeline.utils.terminal import echo
from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.run.execution import Device, Executor


@click.command("run")
@click.argument("places", nargs=-1, type=PATH_OR_URL, metavar="ATLAS | SHARD…")
@spec_options
@choice_option("--executor", ["ray", "inline"], "Ray actors, or this process.", "ray")
@click.option("--retry-failed", is_flag=True, help="Process again only the samples that have no maps.")
@click.option("--address", metavar="local|auto|HOST:PORT", help="Ray cluster to use. Default: RAY_ADDRESS, else local.")
@count_option("--actors", text="Maximum number of actors. Default: one for each GPU, else one for each core.")
@choice_option(
    "--device", ["auto", "cpu", "cuda"], "Device of the actors; cuda waits until GPUs are available.", "auto"
)
@count_option(
    "--decode-processes", minimum=0, text="Decoding processes of each actor. Default: 4 beside a GPU, else a thread."
)
@click.option(
    "--timeout",
    type=Number(0, min_open=True),
    metavar="SECONDS",
    help="Maximum time for one shard, then another actor gets it. "
    "Default: 10 times the slowest, at least 600 s; 6 h at first.",
)
@click.option(
    "--patience",
    type=Number(0, min_open=True),
    default=600,
    metavar="SECONDS",
    help="Fail the run after this time without any actor.",
)
@path_option("--cache", metavar="DIR", text="Local folder of each node for copies of remote shards.")
@count_option("--cache-gb", default=200, text="With --cache: maximum size of the copies on a node.")
@path_option("--log", metavar="FILE", text="Append one line of JSON for each attempt at a shard; - is standard error.")
@output.json_option
def run_command(
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

    Takes a planned ATLAS, or SHARDs and --out with the flags of plan, and then plans first. Run the same command again
    to resume after an interruption. After Ctrl-C or SIGTERM, shards in progress get 20 seconds to finish, and the exit
    code is 75.

    \b
    Examples:
      vitatlas run train.atlas
      vitatlas run train.atlas --retry-failed
      vitatlas run 'shards/val-{00..63}.tar' --out val.atlas --model deit_small_patch16_224 --pretrained
    """
    if out is None and spec_file is None:
        allow_pipe = bool(flags.pop("allow_pipe"))
        plan_flags = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value not in (None, ())]
        if plan_flags:
            raise UsageError(f"{plan_flags[0]} is for planning: name a new atlas with --out, or remove {plan_flags[0]}")
        if len(places) != 1:
            raise UsageError("name one planned atlas, or shards and --out ATLAS")
        out = places[0]
    elif not out:
        raise UsageError("no atlas: name the output with --out ATLAS")
    else:
        spec = run_spec(places, spec_file, flags)
        allow_pipe = spec.allow_pipe
        record = plan_with_progress(spec, out)
        if not json_:
            print_plan(record, out)

    from pipeline.run import ExecutionOptions, run
    from pipeline.store.label_accuracy import measure_label_accuracy
    from schemas.samples import SampleStatus

    if cache and "://" in cache:
        raise UsageError(f"--cache {cache}: is a URL; name a folder on the local disk of each node")
    options = ExecutionOptions(
        executor, address, actors, device, decode_processes, timeout, patience,
        allow_pipe=allow_pipe, log=log, cache=os.path.abspath(cache) if cache else None, cache_gb=cache_gb,
    )  # fmt: skip
    atlas = run(out, options, retry_failed)
    statuses = atlas.statuses()
    accuracy = measure_label_accuracy(atlas)
    if json_:
        images = {"done": statuses.total(), "planned": atlas.run.samples}
        shards = {"done": len(atlas.committed), "planned": len(atlas.run.shards)}
        document = {"atlas": atlas.objects.url, "shards": shards, "images": images, "statuses": dict(statuses)}
        output.print_json(document | {"accuracy": output.accuracy_document(accuracy)})
        return
    with_maps = statuses.pop(SampleStatus.OK, 0)
    without = f"{statuses.total():,} without" + ("; see vitatlas status" if statuses.total() else "")
    shards_done = f"{len(atlas.committed)} shard" + ("s" if len(atlas.committed) != 1 else "")
    echo(f"complete {shards_done}, {with_maps:,} images with maps, {without}")
    output.print_accuracy(accuracy)
    if missing := statuses[SampleStatus.MISSING_LABEL]:
        echo(
            f"warning  {missing:,} samples have no label; --targets predicted, for another atlas, explains all samples",
            err=True,
        )
