"""``vitatlas train``."""

from pathlib import Path
from typing import Any, Literal

import click

from schemas.run import Geometry, ModelSpec


@click.group("train")
def command() -> None:
    """Train an explainer that has weights of its own.

    \b
    Example:
      vitatlas train diffmask 'train-{0000..0063}.tar' --held-out 'train-{1000..1003}.tar' \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --out gates.safetensors
    """


@command.command("diffmask")
@click.argument("shards", nargs=-1, required=True, metavar="SHARD…")
@click.option("--held-out", multiple=True, required=True, metavar="SHARD", help="Tars for the figures in the card.")
@click.option("--model", required=True, metavar="NAME", help="A timm model, or local-dir:FOLDER.")
@click.option("--pretrained", is_flag=True, help="Take the weights that timm knows.")
@click.option("--checkpoint", metavar="FILE", help="Take the weights of a .safetensors file.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE")
@click.option("--steps", type=click.IntRange(1), default=20_000, show_default=True, metavar="N")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, metavar="N")
@click.option("--geometry", type=click.Choice(["squash", "crop"]), default="squash", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N")
@click.option(
    "--objective",
    type=click.Choice(["distribution", "class"]),
    default="distribution",
    show_default=True,
    help="Keep all that is predicted, or the probability of the label alone.",
)
@click.option("--tolerance", type=float, default=0.1, show_default=True, help="Divergence that is allowed.")
@click.option("--rate", type=float, default=2e-5, show_default=True, help="Learning rate of the probes.")
@click.option("--placeholder-rate", type=float, default=1e-3, show_default=True, help="And of the placeholder.")
@click.option("--alpha", type=float, default=20.0, show_default=True, help="First value of the multipliers.")
@click.option("--alpha-rate", type=float, default=0.3, show_default=True, help="Step of their ascent.")
@click.option("--add", type=float, default=8.0, show_default=True, help="First value of a gate logit's shift.")
def diffmask(
    shards: tuple[str, ...],
    held_out: tuple[str, ...],
    model: str,
    pretrained: bool,
    checkpoint: str | None,
    out: Path,
    steps: int,
    batch_size: int,
    geometry: Geometry,
    seed: int,
    objective: Literal["distribution", "class"],
    **settings: Any,
) -> None:
    """Gates that keep the fewest patches which the prediction needs (Vision DiffMask).

    Writes the gates with a card, and their curves as Parquet and PNG. Interrupted, the same command goes on.

    \b
    Example:
      vitatlas train diffmask 'train-{0000..0063}.tar' --held-out 'train-{1000..1003}.tar' \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --out gates.safetensors
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.train import start
    from pipeline.train.diffmask import Settings

    network = ModelSpec.read({"name": model, "pretrained": pretrained, "checkpoint": checkpoint}, "the flags")
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("steps", total=steps)

        def show(step: int, figures: Any) -> None:
            text = f"KL {figures['divergence']:.3f}  kept {figures['kept']:.2f}  α {figures['alpha']:.1f}"
            bar.update(task, completed=step, description=text)

        card = start.diffmask(
            network,
            shards,
            held_out,
            out,
            settings=Settings(objective=objective, **settings),
            steps=steps,
            batch_size=batch_size,
            geometry=geometry,
            seed=seed,
            progress=show,
        )
    reached = card.figures
    click.echo(f"gates    {out}")
    click.echo(f"held out KL {reached['kl']:.3f}, {100 * reached['kept']:.1f} % of the patches kept")
    click.echo(f"         KL {reached['kl_shuffled']:.3f} with the same masks shuffled")
    click.echo(f"use      --methods diffmask:artifact={out}")
