"""``vitatlas head probe`` and ``vitatlas head prototypes``: heads that are learned from labelled images."""

from functools import partial
from typing import Any, get_args

import click

from jobs import output
from jobs.params import (
    PATH_OR_URL,
    Number,
    address_option,
    choice_option,
    count_option,
    model_options,
    options,
    path_option,
    read_class_names,
    sample_options,
    split_names,
)
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.head import HeadReadout
from schemas.learned_head import Command, LearnedHeadRecord, LearnedHeadSpec
from schemas.run import ModelSpec

_GRID = LearnedHeadSpec.model_fields["l2"].default

learning_options = options(
    click.argument("shards", nargs=-1, type=PATH_OR_URL, required=True, metavar="SHARD…"),
    path_option(
        "--held-out",
        multiple=True,
        metavar="SHARD",
        text="Shards to evaluate on; may be repeated. Default: images of SHARD….",
    ),
    model_options,
    choice_option(
        "--read-out",
        get_args(HeadReadout),
        "What the head reads: class token, mean of the patches, attention pooler, or the first two one after the "
        "other. Default: what the network reads out itself.",
    ),
    path_option(
        "--classes",
        "classes_file",
        metavar="FILE",
        text="Class names, one a line, in the order of the labels from 0. Default: the labels.",
    ),
    path_option("--out", required=True, metavar="FILE", text="Head file to write, safetensors."),
    path_option("--features", metavar="DIR", text="Folder that keeps the features, for further heads of these shards."),
    click.option("--geometry", type=click.Choice(["squash", "crop"]), default="squash"),
    sample_options,
    count_option("--batch-size", default=32, text="Images in one forward."),
    choice_option("--device", ["auto", "cpu", "cuda"], "Device of the network and of the fits.", "auto"),
    address_option,
    output.json_option,
)
"""The flags of both commands: shards, network, output, computation."""


@click.command("probe", short_help="Train a linear probe on labelled images.")
@learning_options
@click.option(
    "--held-out-share",
    type=Number(0, 1, min_open=True, max_open=True),
    help="Part of the images of each class to hold out, where no --held-out is given. Default: 0.1.",
)
@click.option(
    "--l2",
    metavar="A,B",
    default=",".join(f"{value:g}" for value in _GRID),
    help="Strengths of the regularization to choose from.",
)
def probe_command(l2: str, held_out_share: float | None, **flags: Any) -> None:
    """Train a linear probe on the frozen features of labelled images.

    Multinomial logistic regression; held-out images choose its L2 regularization. Prints their accuracy and
    calibration, and keeps them in the head file. Run the same command again to resume after an interruption.

    \b
    Examples:
      vitatlas head probe 'cub-train-{0000..0005}.tar' --held-out cub-test-0000.tar --classes cub.txt \\
          --model vit_small_patch14_dinov2.lvd142m --pretrained --read-out token+mean --out cub.safetensors
    """
    if held_out_share is not None and flags["held_out"]:
        raise UsageError("--held-out-share is a part of SHARD…, and --held-out names other shards; leave one out")
    _learn("head probe", flags, held_out_share=held_out_share, l2=_numbers("--l2", l2))


@click.command("prototypes", short_help="Average the features of a few images of each class.")
@learning_options
@count_option("--images", default=5, text="Images of each class that make its prototype; the others are held out.")
def prototypes_command(images: int, **flags: Any) -> None:
    """Make a classifier by similarity to the mean features of a few images of each class.

    \b
    Example:
      vitatlas head prototypes 'cub-train-{0000..0005}.tar' --images 5 --classes cub.txt \\
          --model vit_small_patch14_dinov2.lvd142m --pretrained --out cub.safetensors
    """
    _learn("head prototypes", flags, images=images)


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in split_names(text))
    except ValueError:
        raise UsageError(f"{flag} {text}: is not a list of numbers; write it as 0.1,0.01") from None


def _learn(command: Command, flags: dict[str, Any], **settings: Any) -> None:
    """Learn a head, and print how good it is."""
    json_, address, device = (flags.pop(name) for name in ("json_", "address", "device"))
    spec = _spec({"command": command} | flags | settings)
    from pipeline.head.learn_head import learn_head
    from pipeline.run.parallel_map import parallel_map

    map_shards = partial(
        parallel_map,
        description="features",
        address=address,
        gpu=device != "cpu",
        module="pipeline.head.extract_features",
    )
    record = learn_head(spec, device, map_shards)
    if json_:
        output.print_json({"out": spec.out} | record.model_dump(mode="json"))
    else:
        _print(spec, record)
    _warn(spec, record)


def _spec(flags: dict[str, Any]) -> LearnedHeadSpec:
    source = ("pretrained", "checkpoint", "checkpoint_key", "image_size", "global_pool")
    model = {"name": flags.pop("model")} | {name: flags.pop(name) for name in source}
    flags["classes"] = read_class_names(flags.pop("classes_file"))
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    return LearnedHeadSpec.read(given | {"model": ModelSpec.read(model, "the flags")}, "the flags")


def _print(spec: LearnedHeadSpec, record: LearnedHeadRecord) -> None:
    if record.fits:
        rows = [
            (f"{fit.l2:g}", *(f"{value:.4f}" for value in vars(fit.held_out).values()), fit.steps)
            for fit in record.fits
        ]
        output.print_table("held-out images", ["l2", *map(str, vars(record.metrics)), "steps"], rows)
    echo(f"images   {record.images:,} to learn from, {record.held_out_images:,} held out")
    chosen = "l2" if record.command == "head probe" else "scale"
    echo(f"{chosen:<8} {record.setting:g}, of the least NLL on the held-out images")
    metrics = record.metrics
    echo(f"held-out accuracy {metrics.accuracy:.4f}, NLL {metrics.nll:.4f}, calibration error {metrics.ece:.4f}")
    echo(f"use      --head {spec.out}")


def _warn(spec: LearnedHeadSpec, record: LearnedHeadRecord) -> None:
    """Print what may be wrong with a head."""
    if left_out := sum(record.left_out.values()):
        kinds = ", ".join(f"{count:,} {status}" for status, count in record.left_out.items())
        echo(f"warning  {left_out:,} samples were left out ({kinds}): see {spec.out}.left-out.parquet", err=True)
    if record.absent_classes:
        echo(f"warning  {record.absent_classes:,} classes have no training image, and are never predicted", err=True)
    if record.small_classes:
        echo(f"warning  {record.small_classes:,} classes have fewer than {spec.images} images", err=True)
    if record.repeated:
        echo(f"warning  {record.repeated:,} held-out images are training images as well, and were dropped", err=True)
    if len(record.fits) > 1 and record.setting in (record.fits[0].l2, record.fits[-1].l2):
        echo(f"warning  {record.setting:g} is at the end of --l2; add values beyond it", err=True)
    if any(fit.l2 == record.setting and not fit.converged for fit in record.fits):
        echo(f"warning  the fit for {record.setting:g} did not converge; leave small values out of --l2", err=True)
