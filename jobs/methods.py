"""``vitatlas methods``."""

from pathlib import Path

import click

from jobs import output
from schemas.errors import UsageError


@click.command("methods")
@click.option("--model", metavar="NAME", help="Say for each method whether it applies to this timm model.")
@output.json_option
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jpg",
    help="Draw what each shows of the same scenes of the demo; takes a few minutes.",
)
def command(model: str | None, json_: bool, sheet: Path | None) -> None:
    """List the attribution methods, and which apply to a network.

    \b
    Examples:
      vitatlas methods --model vit_base_patch16_siglip_224
      vitatlas methods --sheet methods.jpg
    """
    from pipeline.explain.method_table import catalogue

    if model == "":
        raise UsageError("--model is empty; name a timm model, such as vit_base_patch16_224")
    if sheet is not None:
        _draw(sheet, model, json_)
        return
    rows = catalogue(model)
    if json_:
        output.as_json(rows)
        return
    columns = list(rows[0])
    output.table(f"methods{' for ' + model if model else ''}", columns, [list(row.values()) for row in rows])


def _draw(file: Path, model: str | None, json_: bool) -> None:
    if model or json_:
        raise UsageError("--sheet is of the network of the demo; leave out --model and --json")
    if file.suffix not in (".jpg", ".jpeg"):
        raise UsageError(f"{file}: must end in .jpg, which is what is drawn")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}")
    from pipeline.demo.method_gallery import render_gallery
    from pipeline.demo.method_gallery import save_gallery as draw

    pictures = render_gallery()
    draw(pictures, file)
    click.echo(f"{len(pictures) - 1} methods on {file}")
