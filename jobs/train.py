"""``vitatlas train``."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

import click

from jobs import output
from jobs.params import (
    PATH_OR_URL,
    Number,
    count_option,
    head_option,
    model_options,
    options,
    path_option,
    registers_option,
    sample_options,
    truth_options,
)
from pipeline.utils.terminal import echo
from schemas.artifacts import ArtifactRecord
from schemas.errors import RunFailedError
from schemas.run import MaskValues, ModelSpec, TruthOrientation
from schemas.training import DiffMaskSettings, MaskSpec, PatchMaskSettings, TrainSpec, TSCAMSettings

F = TypeVar("F", bound=Callable[..., Any])


@click.group("train")
def train_command() -> None:
    """Train a method that has weights of its own.

    \b
    Examples:
      vitatlas train diffmask 'train-{0000..0063}.tar' --held-out 'train-{1000..1003}.tar' \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --out gates.safetensors
      vitatlas train pm 'train-{0000..1279}.tar' --held-out train-1280.tar --masks train-semi-segmentation/ \\
          --model deit3_base_patch16_224.fb_in1k --pretrained --workers 8 --out pm.safetensors
      vitatlas train tscam 'train-{0000..1279}.tar' --held-out train-1280.tar \\
          --model deit_small_patch16_224.fb_in1k --pretrained --workers 8 --out tscam.safetensors
    """


training_options = options(
    click.argument("shards", nargs=-1, type=PATH_OR_URL, required=True, metavar="SHARD…"),
    path_option(
        "--held-out", multiple=True, required=True, metavar="SHARD", text="Shards to evaluate on; may be repeated."
    ),
    model_options,
    head_option,
    registers_option,
    path_option("--out", required=True, metavar="FILE", text="Output artifact, safetensors."),
    count_option("--steps", default=20_000, text="Training steps."),
    count_option("--batch-size", default=32, text="Images in one step of each worker."),
    click.option("--geometry", type=click.Choice(["squash", "crop"]), default="squash"),
    sample_options,
    click.option("--seed", type=click.IntRange(0), default=0, metavar="N"),
    click.option("--precision", type=click.Choice(["full", "bfloat16"]), default="full"),
    count_option(
        "--eval-interval", default=500, text="Steps between checkpoints, and between evaluations on --held-out."
    ),
    count_option("--patience", text="Stop after N evaluations on --held-out without improvement."),
    count_option("--workers", default=1, text="Training processes; several run under Ray Train."),
    click.option(
        "--address", metavar="local|auto|HOST:PORT", help="Ray cluster to use. Default: RAY_ADDRESS, else local."
    ),
    click.option("--strict", is_flag=True, help="Exit with 1 if the results give a warning; the artifact is kept."),
    output.json_option,
)
"""The flags of every training: shards, network, output, length."""


def setting_option(
    settings: type[DiffMaskSettings | PatchMaskSettings | TSCAMSettings], name: str, text: str
) -> Callable[[F], F]:
    """Return the flag of a hyper-parameter, with its default.

    Args:
        settings: record of the hyper-parameters.
        name: name of the field.
        text: help.
    """
    field = settings.model_fields[name]
    default, choices = field.default, get_args(field.annotation)
    kind: Any = _number_in_range(field.metadata) if isinstance(default, float) else type(default)
    if choices and isinstance(choices[0], str):
        kind = click.Choice(choices)
    return click.option(f"--{name.replace('_', '-')}", type=kind, default=default, help=text)


def _number_in_range(metadata: Iterable[Any]) -> click.ParamType[Any]:
    """Return the type of a flag with the bounds of a field of a record."""
    limits: dict[str, Any] = {}
    for item in metadata:
        for bound, name in (("ge", "min"), ("gt", "min"), ("le", "max"), ("lt", "max")):
            if (limit := getattr(item, bound, None)) is not None:
                limits |= {name: limit, f"{name}_open": bound in ("gt", "lt")}
    return Number(**limits) if limits else click.FLOAT


_DIFFMASK = {
    "objective": "What the mask must preserve: the predicted distribution, or the probability of the label.",
    "tolerance": "ε, the allowed divergence.",
    "learning_rate": "Learning rate of the probes.",
    "placeholder_learning_rate": "Learning rate of the placeholder.",
    "warmup_steps": "Steps of linear warm-up of both.",
    "alpha": "Initial value of the Lagrange multipliers.",
    "alpha_learning_rate": "Learning rate of the multipliers.",
    "gate_bias": "Initial shift of the gate logits.",
    "depth_sampling": "How the depth of a step is sampled: uniform, or weighted towards unconverged depths.",
}
_PM = {
    "learning_rate": "Learning rate of the head.",
    "layer_decay": "Layer-wise decay of the learning rate, per block.",
    "weight_decay": "Weight decay of matrices.",
    "warmup_steps": "Steps of linear warm-up.",
    "patch_loss_weight": "Weight of the patch loss beside the cross-entropy.",
    "negative_loss_weight": "Weight of absent classes within the patch loss.",
    "num_negatives": "Number of absent classes in a step.",
    "min_crop_area": "Smallest area of a training crop, as a fraction of the image.",
}

_TSCAM = {
    "backbone": "Train the whole network, as in the paper, or only the convolution.",
    "learning_rate": "Learning rate of all trained weights; a convolution alone takes more, such as 1e-3.",
    "weight_decay": "Weight decay of matrices.",
    "warmup_steps": "Steps of linear warm-up.",
    "min_crop_area": "Smallest area of a training crop, as a fraction of the image.",
}


@train_command.command("diffmask")
@training_options
@options(*(setting_option(DiffMaskSettings, name, text) for name, text in _DIFFMASK.items()))
def diffmask(address: str | None, strict: bool, json_: bool, **flags: Any) -> None:
    """Train gates that keep as few patches as the prediction needs (Vision DiffMask).

    Writes the gates with metadata, and training curves as Parquet and PNG. Run the same command again to resume.

    \b
    Example:
      vitatlas train diffmask 'train-{0000..0063}.tar' --held-out 'train-{1000..1003}.tar' \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --out gates.safetensors
    """
    spec = _spec("diffmask", _DIFFMASK, flags)
    line = "loss {loss:.2f}  KL {kl_average:.3f}  kept {kept_average:.2f}  α {alpha:.0f}"
    artifact = _train(spec, line, address, json_)
    if not json_:
        reached = artifact.metrics
        echo(f"gates    {spec.out}")
        echo(f"held-out KL {reached['kl']:.3f}, {100 * reached['kept']:.1f} % of the patches kept")
        echo(f"         KL {reached['kl_shuffled']:.3f} with the same masks shuffled")
        echo(f"use      --artifact {spec.out}")
    _warn(artifact, strict)


@train_command.command("pm")
@training_options
@path_option(
    "--masks", metavar="FILE|DIR", text="Masks or boxes to learn from: COCO, wsolevaluation, ILSVRC XML, PNG masks."
)
@path_option("--atlas", metavar="ATLAS", text="Instead of --masks: learn from pseudo-masks of this atlas.")
@path_option("--policy", metavar="FILE", text="With --atlas: policy of the pseudo-masks.")
@truth_options
@path_option("--measure", metavar="FILE|DIR", text="Masks of held-out images, used for metrics only.")
@click.option("--save-float16", is_flag=True, help="Store weights as float16; the metrics are of float32.")
@options(*(setting_option(PatchMaskSettings, name, text) for name, text in _PM.items()))
def pm(
    address: str | None,
    strict: bool,
    json_: bool,
    masks: str | None,
    atlas: str | None,
    policy: str | None,
    measure: str | None,
    truth_orientation: TruthOrientation | None,
    mask_values: MaskValues | None,
    **flags: Any,
) -> None:
    """Fine-tune a network to predict its classes at each patch (patch-level mask prediction, PM).

    Learns from masks or boxes of a few images, or from pseudo-masks of an atlas; no parameter is added. The text of the
    paper is not public: this is our design pm_design_v1. Run the same command again to resume.

    \b
    Examples:
      vitatlas train pm 'train-{0000..1279}.tar' --held-out train-1280.tar --masks train-semi-segmentation/ \\
          --model deit3_base_patch16_224.fb_in1k --pretrained --workers 8 --out pm.safetensors
      vitatlas train pm 'train-{0000..1279}.tar' --held-out train-1280.tar --atlas train.atlas \\
          --policy legrad.yaml --model deit3_base_patch16_224.fb_in1k --pretrained --out pm-wsol.safetensors
    """
    source = MaskSpec(
        truth=masks,
        atlas=atlas,
        policy=policy,
        held_out_truth=measure,
        truth_orientation=truth_orientation,
        mask_values=mask_values,
    )
    spec = _spec("pm", _PM, flags | {"masks": source})
    artifact = _train(spec, "loss {loss:.3f}  CE {ce:.3f}  patches {patch:.3f}", address, json_)
    if not json_:
        reached = artifact.metrics
        echo(f"weights  {spec.out}")
        for name, text in {"accuracy": "accuracy", "ece": "calibration error", "brier": "Brier score"}.items():
            if name in reached:
                echo(f"held-out {text} {reached[name]:.4f}, before {reached[f'{name}_before']:.4f}")
        echo(f"use      --artifact {spec.out}")
    _warn(artifact, strict)


@train_command.command("tscam")
@training_options
@options(*(setting_option(TSCAMSettings, name, text) for name, text in _TSCAM.items()))
def tscam(address: str | None, strict: bool, json_: bool, **flags: Any) -> None:
    """Train a convolution that gives a map for each class, and the network with it (TS-CAM).

    Learns from labels only. The network must classify by its class token. The artifact holds convolution and fine-tuned
    network; other methods go on explaining the network that is given. Run the same command again to resume.

    \b
    Example:
      vitatlas train tscam 'train-{0000..1279}.tar' --held-out train-1280.tar \\
          --model deit_small_patch16_224.fb_in1k --pretrained --workers 8 --out tscam.safetensors
    """
    spec = _spec("tscam", _TSCAM, flags)
    artifact = _train(spec, "loss {loss:.3f}  accuracy {accuracy:.2f}", address, json_)
    if not json_:
        reached = artifact.metrics
        echo(f"weights  {spec.out}")
        echo(f"held-out accuracy {reached['accuracy']:.4f}, of the network {reached['network_accuracy_before']:.4f}")
        echo(f"use      --artifact {spec.out}")
    _warn(artifact, strict)


def _spec(method: str, settings: dict[str, str], flags: dict[str, Any]) -> TrainSpec:
    source = ("pretrained", "checkpoint", "checkpoint_key", "image_size", "global_pool", "head", "registers")
    model = {"name": flags.pop("model")} | {name: flags.pop(name) for name in source}
    chosen = {"method": method} | {name: flags.pop(name) for name in settings}
    content = flags | {"model": ModelSpec.read(model, "the flags"), "settings": chosen}
    return TrainSpec.read(content, "the flags")


def _train(spec: TrainSpec, line: str, address: str | None, json_: bool) -> ArtifactRecord:
    """Train with a progress bar, and print the results."""
    from pipeline.train.train_explainer import train_explainer
    from pipeline.utils.progress import Bar, make_progress

    steps_seen: list[int] = []
    with make_progress() as bars:
        bar = Bar(bars, "steps", spec.steps)

        def show_step(step: int, metrics: Any) -> None:
            if not steps_seen:
                bar.restart(step)  # the first step waits for data and for the network
                if step > 1:
                    echo(f"resumed from step {step - 1}", err=True)
            steps_seen.append(step)
            text = line.format(**metrics)
            bar.update(step, description=text)
            if bars.disable and step % max(1, spec.steps // 20) == 0:
                echo(f"step {step} of {spec.steps}: {text}", err=True)

        artifact = train_explainer(spec, show_step, address, output.print_note)
    metrics = artifact.metrics
    if json_:
        output.print_json(
            {
                "out": spec.out,
                "supervision": artifact.supervision,
                "steps": spec.steps,
                "metrics": metrics,
                "warnings": artifact.warnings,
            }
        )
    else:
        if not steps_seen:
            echo("already complete")
        echo(f"trained  on {artifact.supervision}")
        echo(f"best     step {metrics['step']:.0f} of {spec.steps}")
    if metrics["left_out"]:
        echo(f"warning  {metrics['left_out']:.0f} samples were left out: no image or no label", err=True)
    return artifact


def _warn(artifact: ArtifactRecord, strict: bool) -> None:
    for warning in artifact.warnings:
        echo(f"warning  {warning}", err=True)
    if strict and artifact.warnings:
        raise RunFailedError("the results of the training give a warning; train otherwise, or leave out --strict")
