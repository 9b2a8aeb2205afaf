"""``vitatlas methods``."""

from pathlib import Path

import click

from jobs import output
from jobs.params import head_option
from pipeline.utils.terminal import echo
from schemas.errors import UsageError


@click.command("methods")
@click.option("--model", metavar="NAME", help="Show for each method whether it is defined for this timm model.")
@head_option
@output.json_option
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jpg",
    help="Plot the maps of every method on four images of the demo; takes a few minutes.",
)
def methods_command(model: str | None, head: str | None, json_: bool, sheet: Path | None) -> None:
    """List the attribution methods, and which are defined for a network.

    \b
    Examples:
      vitatlas methods --model vit_base_patch16_siglip_224
      vitatlas methods --model vit_base_patch16_clip_quickgelu_224 --head birds.safetensors
      vitatlas methods --sheet methods.jpg
    """
    from pipeline.explain.method_table import method_rows, short_cell

    if model == "":
        raise UsageError("--model is empty; give a timm model, such as vit_base_patch16_224")
    if head and not model:
        raise UsageError("--head needs the network that it is for: add --model NAME")
    if sheet is not None:
        _plot_sheet(sheet, model, json_)
        return
    rows = method_rows(model, head)
    if json_:
        output.print_json(rows)
        return
    columns = ["method", "map of", "applies"] if model else ["method", "map of", "cost", "source"]
    title = f"methods for {model}" if model else "methods; cost in forwards, --json has options and definitions"
    output.print_table(title, columns, [[short_cell(row, column) for column in columns] for row in rows])


def _plot_sheet(file: Path, model: str | None, json_: bool) -> None:
    if model or json_:
        raise UsageError("--sheet plots the network of the demo; remove --model and --json")
    if file.suffix not in (".jpg", ".jpeg"):
        raise UsageError(f"{file}: must end in .jpg")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: the folder {file.parent} does not exist; create it first")
    from pipeline.demo.method_gallery import render_gallery, save_gallery

    images = render_gallery()
    save_gallery(images, file)
    echo(f"{len(images) - 1} methods on {file}")
