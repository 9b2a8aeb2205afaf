"""``vitatlas drop``."""

from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.completion import methods_of_atlas
from jobs.params import PATH_OR_URL, names_option, split_names
from pipeline.utils.terminal import echo

if TYPE_CHECKING:
    from pipeline.store.drop import Drop


@click.command("drop")
@click.argument("atlas", type=PATH_OR_URL)
@names_option("--methods", names=methods_of_atlas, text="Names of methods of the atlas.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option(
    "--leave-products", is_flag=True, help="Drop them even if labels, scores or audits were made from their maps."
)
@output.json_option
def drop_command(atlas: str, methods: str | None, dry_run: bool, leave_products: bool, json_: bool) -> None:
    """Delete the maps of methods from an atlas.

    The atlas first says that it no longer has the methods, then their objects are deleted. Run the same command again
    to resume. If labels, scores or audits were made from these maps, they are named and nothing is dropped:
    remove them, or keep them with --leave-products. Products elsewhere are not known.

    \b
    Examples:
      vitatlas drop train.atlas --methods rollout --dry-run
      vitatlas drop train.atlas --methods rollout
    """
    from pipeline.store.drop import drop, plan_drop

    names = split_names(methods)
    dropped = plan_drop(atlas, names) if dry_run else drop(atlas, names, leave_products)
    if json_:
        output.print_json(_summarize(dropped))
        return
    verb = "would be deleted" if dry_run else "were deleted"
    size = output.format_bytes(sum(dropped.objects.values()))
    echo(f"methods  {', '.join(dropped.methods)}")
    for folder, used in dropped.products.items():
        echo(f"product  {folder} was made from maps of {', '.join(used)}")
    echo(f"objects  {len(dropped.objects):,} of {size} {verb}")


def _summarize(dropped: "Drop") -> dict[str, Any]:
    return {
        "atlas": dropped.atlas.objects.url,
        "methods": list(dropped.methods),
        "products": {folder: list(methods) for folder, methods in dropped.products.items()},
        "objects": len(dropped.objects),
        "bytes": sum(dropped.objects.values()),
    }
