"""``vitatlas extend``."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.params import (
    PATH_OR_URL,
    artifact_option,
    methods_to_add_option,
    names_option,
    partial_option,
    path_option,
    split_names,
)
from jobs.plan import summarize, warn_of_shards
from jobs.run_options import execution_flags, execution_options
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.targets import split_kinds

if TYPE_CHECKING:
    from pipeline.run.append import Append
    from pipeline.run.extend import Extension


@click.command("extend")
@click.argument("atlas", type=PATH_OR_URL)
@methods_to_add_option
@artifact_option
@names_option(
    "--targets",
    multiple=True,
    names=lambda context: ("label", "predicted", "top:", "class:"),
    text="What to explain as well, by all methods of the atlas: label, predicted, top:K, class:NAME|ID,…; may be "
    "repeated.",
)
@path_option(
    "--shards",
    multiple=True,
    metavar="SHARD",
    text="Further shards, such as 'new/*.tar', for all methods of the atlas; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be computed, and write nothing.")
@partial_option
@click.option("--allow-pipe", is_flag=True, help="Accept pipe: shards, which run shell commands.")
@execution_flags
@output.json_option
def extend_command(
    atlas: str,
    methods: str | None,
    artifact: tuple[str, ...],
    targets: tuple[str, ...],
    shards: tuple[str, ...],
    dry_run: bool,
    partial: bool,
    json_: bool,
    **flags: Any,
) -> None:
    """Add methods or targets to an atlas for the same shards, or further shards for all of them.

    Only what is missing is computed, with the network and the batches that the atlas was planned with, into new
    objects. What exists is not changed, so it can be read meanwhile, and labels, scores and audits stay valid.
    Run the same command again to resume.

    Shards follow those that the atlas has; those that it has are left out. None may have more samples than the largest
    that the atlas was planned with, rounded up to a chunk.

    \b
    Examples:
      vitatlas extend train.atlas --methods attn_gradcam,reciprocam:kernel=box
      vitatlas extend train.atlas --artifact diffmask.safetensors
      vitatlas extend train.atlas --methods rollout --dry-run
      vitatlas extend train.atlas --targets predicted
      vitatlas extend train.atlas --shards 'shards/train-{1024..1151}.tar'
    """
    from pipeline.run.extend import extend, extend_targets, plan_extension, plan_targets
    from pipeline.store import Atlas

    if shards:
        if methods is not None or artifact or partial or targets:
            raise UsageError(
                "--shards computes all methods and targets of the atlas; add others with a command of their own"
            )
        _append(atlas, shards, dry_run, json_, flags)
        return
    if targets and (methods is not None or artifact):
        raise UsageError("--targets computes all methods of the atlas; add methods with a command of their own")
    output.check_complete(Atlas.open(atlas), partial)
    names, kinds = split_names(methods), [kind for text in targets for kind in split_kinds(text)]
    plans = list["Extension"]()

    def on_plan(extension: "Extension") -> None:
        plans.append(extension)
        if not json_:
            _print_extension(extension)

    if dry_run:
        on_plan(plan_targets(atlas, kinds) if targets else plan_extension(atlas, names, artifact))
    elif targets:
        extend_targets(atlas, kinds, execution_options(flags), on_plan)
    else:
        extend(atlas, names, artifact, execution_options(flags), on_plan)
    extended = Atlas.open(atlas)
    if json_:
        own = {"methods": list(extended.methods), "targets": list(extended.run.stored_targets)}
        output.print_json(_summarize(plans[0]) | own)
    elif not dry_run:
        of_targets = f", for {', '.join(extended.run.stored_targets)}" if targets else ""
        echo(f"complete {extended.objects.url} has maps of {', '.join(extended.methods)}{of_targets}")


def _append(url: str, patterns: tuple[str, ...], dry_run: bool, json_: bool, flags: dict[str, Any]) -> None:
    """Append shards, or show which would be."""
    from pipeline.run.append import append, plan_append
    from pipeline.utils.progress import progress_bars

    options, plans = execution_options(flags), list["Append"]()
    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars())("count samples")

        def on_plan(planned: "Append") -> None:
            bars.close()
            plans.append(planned)
            warn_of_shards(planned.shards)
            if not json_:
                _print_append(planned)

        if dry_run:
            on_plan(plan_append(url, patterns, options.allow_pipe, progress))
        else:
            extended = append(url, patterns, options, on_plan, progress)
    if json_:
        output.print_json(_summarize_append(plans[0]))
    elif not dry_run:
        echo(f"complete {extended.objects.url} has {len(extended.committed):,} shards")


def _summarize_append(planned: "Append") -> dict[str, Any]:
    shards = {
        "present": planned.present,
        "added": [shard.url for shard in planned.shards],
        "first_row": planned.atlas.own.rows,
        "images": planned.samples,
        "problems": {shard.url: shard.fault for shard in planned.shards if shard.fault},
    }
    methods = dict.fromkeys(name for each in (planned.atlas, *planned.atlas.parts) for name in each.own.methods)
    targets = list(planned.atlas.run.stored_targets)
    of_methods = {"methods": list(methods), "targets": targets, "present": [], "unfinished": [], "part": None}
    return {"atlas": planned.atlas.objects.url, "shards": shards} | of_methods


def _print_append(planned: "Append") -> None:
    summary = _summarize_append(planned)
    shards = summary["shards"]
    echo(f"atlas    {summary['atlas']}")
    if planned.present:
        echo(f"present  {planned.present:,} of these shards")
    if not planned.shards:
        done, total = len(planned.atlas.committed), len(planned.atlas.own.shards)
        echo(f"resume   {done:,} of {total:,} shards are done" if done < total else "nothing is missing")
        return
    echo(f"shards   {len(planned.shards):,}, from row {shards['first_row']:,}")
    echo(f"images   {planned.samples:,}")
    echo(f"methods  {', '.join(summary['methods'])}")


def _summarize(extension: "Extension") -> dict[str, Any]:
    part = extension.part and summarize(extension.part, extension.atlas.objects.url)
    return {
        "atlas": extension.atlas.objects.url,
        "present": list(extension.present),
        "unfinished": [list(part.own.methods) for part in extension.unfinished],
        "shards": None,
        "part": part and {name: part[name] for name in ("methods", "targets", "shards", "images", "maps", "bytes")},
    }


def _print_extension(extension: "Extension") -> None:
    summary = _summarize(extension)
    echo(f"atlas    {summary['atlas']}")
    if extension.present:
        echo(f"present  {', '.join(extension.present)}")
    for part in extension.unfinished:
        done, total = len(part.committed), len(extension.atlas.committed)
        targets = f" for {', '.join(part.own.stored_targets)}" if part.own.first_target else ""
        echo(f"resume   {', '.join(part.own.methods) or 'no method'}{targets}: {done} of {total} shards are done")
    if part := summary["part"]:
        echo(f"methods  {', '.join(part['methods'])}")
        echo(f"targets  {', '.join(map(extension.atlas.own.describe_target, part['targets']))}")
        echo(f"maps     {part['maps']:,}, at most {output.format_bytes(part['bytes'])} before compression")
    elif not extension.unfinished:
        echo("nothing is missing")
