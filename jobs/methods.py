"""``vitatlas methods``."""

import click

from jobs import show
from schemas.errors import UsageError


@click.command("methods")
@click.option("--model", metavar="NAME", help="Say for each method whether it applies to this timm model.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def command(model: str | None, json_: bool) -> None:
    """List the attribution methods, and which apply to a network.

    \b
    Example:
      vitatlas methods --model vit_base_patch16_siglip_224
    """
    from pipeline.explain.catalogue import catalogue

    if model == "":
        raise UsageError("--model is empty; name a timm model, such as vit_base_patch16_224")
    rows = catalogue(model)
    if json_:
        show.as_json(rows)
        return
    columns = list(rows[0])
    show.table(f"methods{' for ' + model if model else ''}", columns, [list(row.values()) for row in rows])
