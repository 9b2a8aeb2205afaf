"""``vitatlas plan``."""

from typing import Any

import click

from jobs.show import size
from jobs.spec import run_spec, spec_options
from schemas.errors import UsageError
from schemas.run import RunRecord, RunSpec


@click.command("plan")
@click.argument("shards", nargs=-1, metavar="SHARD…")
@spec_options
def command(shards: tuple[str, ...], spec_file: str | None, out: str | None, **flags: Any) -> None:
    """Freeze a run: count the tars, look at the network, create the arrays.

    SHARD is a path, an fsspec URL, a brace pattern (quote it) or a glob of WebDataset tars.

    \b
    Example:
      vitatlas plan 'shards/train-{0000..1023}.tar' --out train.atlas \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --methods legrad,reciprocam
    """
    if not out:
        raise UsageError("no atlas: say where it is to be made with --out")
    planned(run_spec(shards, spec_file, flags), out)


def planned(spec: RunSpec, out: str) -> RunRecord:
    """Plan, with a bar while tars are counted, and say what was planned."""
    from rich.console import Console
    from rich.progress import Progress

    from pipeline.run import plan

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("count samples", total=None)
        run = plan(spec, out, lambda done, total: bar.update(task, completed=done, total=total))
    describe(run, out)
    return run


def describe(run: RunRecord, out: str) -> None:
    """Print rows, bytes and units of a planned run, and what is wrong with its tars."""
    height, width = run.model.grid
    maps = run.samples * len(run.methods) * len(run.spec.targets)
    click.echo(f"atlas    {out}")
    click.echo(f"model    {run.model.name}, {run.model.parameters:,} parameters, {height}×{width} patches")
    click.echo(f"methods  {', '.join(run.methods)}")
    click.echo(f"targets  {', '.join(run.spec.targets)}, geometry {run.spec.geometry}")
    click.echo(f"tars     {len(run.shards)}, of up to {run.slot:,} rows each")
    click.echo(f"images   {run.samples:,}")
    click.echo(f"maps     {maps:,}, at most {size(maps * (height * width * 2 + 8))} before compression")
    for shard in run.shards:
        if shard.problem:
            click.echo(f"warning  {shard.url}: {shard.problem}; it will be set aside", err=True)
