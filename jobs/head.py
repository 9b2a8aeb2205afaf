"""``vitatlas head``."""

from typing import TYPE_CHECKING, get_args

import click

from jobs import output
from jobs.params import choice_option, classes_option, path_option, read_class_names
from pipeline.utils.terminal import echo
from schemas.head import CheckpointReadout

if TYPE_CHECKING:
    from pipeline.explain.head import Head

out_option = path_option("--out", required=True, metavar="FILE", text="Head file to write, safetensors.")


@click.group("head")
def head_command() -> None:
    """Make a classifier in a file of its own, for a backbone that has none.

    \b
    Example:
      vitatlas head extract --checkpoint dinov2_vits14_linear_head.pth --read-out token+mean --out head.safetensors
    """


@head_command.command("extract")
@path_option("--checkpoint", required=True, metavar="FILE", text="Classifier or whole network: .safetensors, .pth ….")
@click.option("--name", metavar="LAYER", help="Which classifier, if the file has several.")
@choice_option(
    "--read-out",
    get_args(CheckpointReadout),
    "What it reads, where the file does not say it: class token, mean of the patches, attention pooler, the first two "
    "one after the other, or the first two alternating.",
)
@classes_option
@out_option
@output.json_option
def extract(
    checkpoint: str,
    name: str | None,
    read_out: CheckpointReadout | None,
    classes_file: str | None,
    out: str,
    json_: bool,
) -> None:
    """Take the linear classifier out of a checkpoint: of a DINO, DINOv2 or DINOv3 probe, MAE, or a fine-tuned network.

    \b
    Examples:
      vitatlas head extract --checkpoint dinov2_vits14_linear_head.pth --read-out token+mean --out head.safetensors
      vitatlas head extract --checkpoint eval/final.pth --name classifier_1_blocks_avgpool_True_lr_0_00500 \\
          --classes imagenet.txt --out head.safetensors
    """
    from pipeline.head.extract import extract_head

    head = extract_head(checkpoint, name, read_out, read_class_names(classes_file))
    head.save(out)
    print_head(head, out, json_)


def print_head(head: "Head", out: str, json_: bool) -> None:
    """Print what was written.

    Args:
        head: the head.
        out: its file.
        json_: print one JSON document.
    """
    record = head.record
    if json_:
        names = ("kind", "read_out", "input_width", "activation", "projection", "provenance")
        fields = {name: getattr(record, name) for name in names}
        output.print_json({"out": out, "digest": head.digest, "classes": len(record.classes), **fields})
        return
    echo(f"head     {out}")
    echo(f"kind     {record.kind}, {len(record.classes):,} classes: {', '.join(record.classes[:3])} …")
    echo(f"reads    {record.read_out} of tokens of width {record.input_width}")
    echo(f"from     {record.provenance}")
