"""``vitatlas extend``."""

from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.params import PATH_OR_URL, artifact_option, methods_to_add_option, partial_option, split_names
from jobs.plan import summarize
from jobs.run_options import execution_flags, execution_options
from pipeline.utils.terminal import echo

if TYPE_CHECKING:
    from pipeline.run.extend import Extension


@click.command("extend")
@click.argument("atlas", type=PATH_OR_URL)
@methods_to_add_option
@artifact_option
@click.option("--dry-run", is_flag=True, help="Show what would be computed, and write nothing.")
@partial_option
@click.option("--allow-pipe", is_flag=True, help="Accept pipe: shards, which run shell commands.")
@execution_flags
@output.json_option
def extend_command(
    atlas: str,
    methods: str | None,
    artifact: tuple[str, ...],
    dry_run: bool,
    partial: bool,
    json_: bool,
    **flags: Any,
) -> None:
    """Add methods to an atlas: compute their maps for the same shards.

    Only what is missing is computed, with the network, the images, the targets and the batches that the atlas was
    planned with, into new objects. What exists is not changed, so it can be read meanwhile, and labels, scores and
    audits stay valid. Run the same command again to resume.

    \b
    Examples:
      vitatlas extend train.atlas --methods attn_gradcam,reciprocam:kernel=box
      vitatlas extend train.atlas --artifact diffmask.safetensors
      vitatlas extend train.atlas --methods rollout --dry-run
    """
    from pipeline.run.extend import extend, plan_extension
    from pipeline.store import Atlas

    output.check_complete(Atlas.open(atlas), partial)
    names, plans = split_names(methods), list["Extension"]()

    def on_plan(extension: "Extension") -> None:
        plans.append(extension)
        if not json_:
            _print_extension(extension)

    if dry_run:
        on_plan(plan_extension(atlas, names, artifact))
    else:
        extend(atlas, names, artifact, execution_options(flags), on_plan)
    extended = Atlas.open(atlas)
    if json_:
        output.print_json(_summarize(plans[0]) | {"methods": list(extended.methods)})
    elif not dry_run:
        echo(f"complete {extended.objects.url} has maps of {', '.join(extended.methods)}")


def _summarize(extension: "Extension") -> dict[str, Any]:
    part = extension.part and summarize(extension.part, extension.atlas.objects.url)
    return {
        "atlas": extension.atlas.objects.url,
        "present": list(extension.present),
        "unfinished": [list(part.own.methods) for part in extension.unfinished],
        "part": part and {name: part[name] for name in ("methods", "targets", "shards", "images", "maps", "bytes")},
    }


def _print_extension(extension: "Extension") -> None:
    summary = _summarize(extension)
    echo(f"atlas    {summary['atlas']}")
    if extension.present:
        echo(f"present  {', '.join(extension.present)}")
    for part in extension.unfinished:
        done, total = len(part.committed), len(extension.atlas.committed)
        echo(f"resume   {', '.join(part.own.methods)}: {done} of {total} shards are done")
    if part := summary["part"]:
        echo(f"methods  {', '.join(part['methods'])}")
        echo(f"targets  {', '.join(map(extension.atlas.own.describe_target, part['targets']))}")
        echo(f"maps     {part['maps']:,}, at most {output.format_bytes(part['bytes'])} before compression")
    elif not extension.unfinished:
        echo("nothing is missing")
