"""``vitatlas train``."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from jobs import output
from jobs.params import FILE, PLACE, Number
from schemas.run import ModelSpec
from schemas.training import DiffMaskSettings, MaskSpec, PatchMaskSettings, TrainSpec

F = TypeVar("F", bound=Callable[..., Any])


@click.group("train")
def command() -> None:
    """Train an explainer that has weights of its own.

    \b
    Examples:
      vitatlas train diffmask 'train-{0000..0063}.tar' --held-out 'train-{1000..1003}.tar' \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --out gates.safetensors
      vitatlas train pm 'train-{0000..1279}.tar' --held-out train-1280.tar --masks train-semi-segmentation/ \\
          --model deit3_base_patch16_224.fb_in1k --pretrained --workers 8 --out pm.safetensors
    """


def training_options(function: F) -> F:
    """What every training has: shards, network, output, length."""
    options = [
        click.argument("shards", nargs=-1, type=PLACE, required=True, metavar="SHARD…"),
        click.option(
            "--held-out", multiple=True, type=PLACE, required=True, metavar="SHARD", help="Shards to judge by."
        ),
        click.option("--model", required=True, metavar="NAME", help="A timm model, or local-dir:FOLDER."),
        click.option("--pretrained", is_flag=True, help="Take the weights that timm knows."),
        click.option("--checkpoint", type=FILE, metavar="FILE", help="Take the weights of a .safetensors file."),
        click.option("--out", type=FILE, required=True, metavar="FILE", help="The artefact, safetensors."),
        click.option("--steps", type=click.IntRange(1), default=20_000, show_default=True, metavar="N"),
        click.option(
            "--batch-size", type=click.IntRange(1), default=32, show_default=True, metavar="N", help="Of each worker."
        ),
        click.option("--geometry", type=click.Choice(["squash", "crop"]), default="squash", show_default=True),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N"),
        click.option("--precision", type=click.Choice(["full", "bfloat16"]), default="full", show_default=True),
        click.option(
            "--every",
            type=click.IntRange(1),
            default=500,
            show_default=True,
            help="Steps between checkpoints, and between looks at --held-out.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(1),
            metavar="N",
            help="Stop after N looks at --held-out without improvement.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            metavar="N",
            help="Under Ray, if several.",
        ),
        click.option("--address", metavar="local|auto|HOST:PORT", help="Of the Ray cluster."),
        output.json_option,
    ]
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


def settings_options(settings: type[DiffMaskSettings | PatchMaskSettings], helps: dict[str, str]) -> Callable[[F], F]:
    """An option for each hyper-parameter, with its default."""

    def decorate(function: F) -> F:
        for name, text in reversed(helps.items()):
            default = settings.model_fields[name].default
            choices = get_args(settings.model_fields[name].annotation)
            kind = click.Choice(choices) if choices and isinstance(choices[0], str) else _kind(default)
            function = click.option(
                f"--{name.replace('_', '-')}", type=kind, default=default, show_default=True, help=text
            )(function)
        return function

    return decorate


def _kind(default: Any) -> Any:
    return Number() if isinstance(default, float) else type(default)


_DIFFMASK = {
    "objective": "distribution keeps all that is predicted; class the probability of the label alone.",
    "tolerance": "ε, the divergence that is allowed.",
    "rate": "Learning rate of the probes.",
    "placeholder_rate": "And of the placeholder.",
    "warm_up": "Steps in which both rise to that.",
    "alpha": "First value of the multipliers.",
    "alpha_rate": "Step of their ascent.",
    "add": "First value of a gate logit's shift.",
    "depths": "uniform, or weighted: less of the depths that have settled.",
}
_PM = {
    "rate": "Learning rate of the head.",
    "decay": "Of the rate, from each block to the one below.",
    "weight_decay": "Of the matrices.",
    "warm_up": "Steps in which the rate rises.",
    "weight": "Of the patch loss beside the cross-entropy.",
    "negative_weight": "Of absent classes within the patch loss.",
    "negatives": "Absent classes of a step.",
    "crop": "Least area of a training crop.",
}


@command.command("diffmask")
@training_options
@settings_options(DiffMaskSettings, _DIFFMASK)
def diffmask(address: str | None, json_: bool, **flags: Any) -> None:
    """Gates that keep the fewest patches which the prediction needs (Vision DiffMask).

    Writes the gates with a card, and their curves as Parquet and PNG. Interrupted, the same command goes on.

    \b
    Example:
      vitatlas train diffmask 'train-{0000..0063}.tar' --held-out 'train-{1000..1003}.tar' \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --out gates.safetensors
    """
    spec = _spec("diffmask", _DIFFMASK, flags)
    line = "loss {loss:.2f}  KL {kl_average:.3f}  kept {kept_average:.2f}  α {alpha:.0f}"
    reached = _train(spec, line, address, json_)
    if json_:
        return
    click.echo(f"gates    {spec.out}")
    click.echo(f"held out KL {reached['kl']:.3f}, {100 * reached['kept']:.1f} % of the patches kept")
    click.echo(f"         KL {reached['kl_shuffled']:.3f} with the same masks shuffled")
    click.echo(f"use      --artifact {spec.out}")


@command.command("pm")
@training_options
@click.option("--masks", type=PLACE, metavar="FILE|DIR", help="Truth: COCO, wsolevaluation, ILSVRC XML, PNG masks.")
@click.option(
    "--atlas", type=PLACE, metavar="ATLAS", help="Instead: learn from pseudo-masks of its maps, without such labels."
)
@click.option("--policy", type=FILE, metavar="FILE", help="With --atlas: how maps become masks.")
@click.option("--measure", type=PLACE, metavar="FILE|DIR", help="Masks of held-out images, for figures alone.")
@click.option("--half", is_flag=True, help="Store float16; the figures are of float32.")
@settings_options(PatchMaskSettings, _PM)
def pm(
    address: str | None,
    json_: bool,
    masks: str | None,
    atlas: str | None,
    policy: str | None,
    measure: str | None,
    **flags: Any,
) -> None:
    """Fine-tune a network to give its classes at each patch (patch-level mask prediction, a design).

    Learns from masks or boxes of a few images, or from pseudo-masks of an atlas; no parameter is added. The paper's
    text is not public: this is the design pm_design_v1. Interrupted, the same command goes on.

    \b
    Examples:
      vitatlas train pm 'train-{0000..1279}.tar' --held-out train-1280.tar --masks train-semi-segmentation/ \\
          --model deit3_base_patch16_224.fb_in1k --pretrained --workers 8 --out pm.safetensors
      vitatlas train pm 'train-{0000..1279}.tar' --held-out train-1280.tar --atlas train.atlas \\
          --policy legrad.yaml --model deit3_base_patch16_224.fb_in1k --pretrained --out pm-wsol.safetensors
    """
    where = {"truth": masks, "atlas": atlas, "policy": policy, "measured": measure}
    spec = _spec("pm", _PM, flags | {"masks": MaskSpec(**where)})
    reached = _train(spec, "loss {loss:.3f}  CE {ce:.3f}  patches {patch:.3f}", address, json_)
    if json_:
        return
    click.echo(f"weights  {spec.out}")
    for name, text in {"accuracy": "accuracy", "ece": "calibration error", "brier": "Brier score"}.items():
        if name in reached:
            click.echo(f"held out {text} {reached[name]:.4f}, before {reached[f'{name}_before']:.4f}")
    click.echo(f"use      --artifact {spec.out}")


def _spec(method: str, settings: dict[str, str], flags: dict[str, Any]) -> TrainSpec:
    model = {"name": flags.pop("model"), "pretrained": flags.pop("pretrained"), "checkpoint": flags.pop("checkpoint")}
    chosen = {"method": method} | {name: flags.pop(name) for name in settings}
    content = flags | {"model": ModelSpec.read(model, "the flags"), "settings": chosen}
    return TrainSpec.read(content, "the flags")


def _train(spec: TrainSpec, line: str, address: str | None, json_: bool) -> dict[str, float]:
    """Train with a bar that shows the figures of each step, and print what came of it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pipeline.train.train_explainer import train_explainer

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")]
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("steps", total=spec.steps)

        begun: list[int] = []

        def look(step: int, figures: Any) -> None:
            if not begun and step > 1:
                click.echo(f"going on from step {step - 1}", err=True)
            begun.append(step)
            text = line.format(**figures)
            bar.update(task, completed=step, description=text)
            if not console.is_terminal and step % max(1, spec.steps // 20) == 0:
                click.echo(f"step {step} of {spec.steps}: {text}", err=True)

        card = train_explainer(spec, look, address)
    figures = card.metrics
    if json_:
        output.as_json({"out": spec.out, "supervision": card.supervision, "steps": spec.steps, "metrics": figures})
    else:
        if not begun:
            click.echo("complete, nothing was left to do")
        click.echo(f"learnt   from {card.supervision}")
        click.echo(f"kept     step {figures['step']:.0f} of {spec.steps}")
    if not figures["step"]:
        click.echo("warning  no look was better than before training: these are the weights it began with", err=True)
    if figures["left_out"]:
        click.echo(f"warning  {figures['left_out']:.0f} times a sample was left out: no picture or label", err=True)
    return figures
