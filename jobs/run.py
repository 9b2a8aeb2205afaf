"""``vitatlas run``."""

from typing import Any

import click

from jobs import output
from jobs.params import PATH_OR_URL
from jobs.plan import plan_with_progress, print_plan
from jobs.run_options import EXECUTION_FLAGS, execution_flags, execution_options, run_spec, spec_options
from pipeline.utils.terminal import echo
from schemas.errors import UsageError


@click.command("run")
@click.argument("places", nargs=-1, type=PATH_OR_URL, metavar="ATLAS | SHARD…")
@spec_options
@click.option("--retry-failed", is_flag=True, help="Process again only the samples that have no maps.")
@execution_flags
@output.json_option
def run_command(
    places: tuple[str, ...],
    spec_file: str | None,
    out: str | None,
    retry_failed: bool,
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
    execution = {name: flags.pop(name) for name in EXECUTION_FLAGS}
    if out is None and spec_file is None:
        execution["allow_pipe"] = bool(flags.pop("allow_pipe"))
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
        execution["allow_pipe"] = spec.allow_pipe
        record = plan_with_progress(spec, out)
        if not json_:
            print_plan(record, out)

    from pipeline.run import run
    from pipeline.store.label_accuracy import measure_label_accuracy
    from schemas.samples import SampleStatus

    atlas = run(out, execution_options(execution), retry_failed)
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
