"""``vitatlas head``."""

from typing import TYPE_CHECKING, get_args

import click

from jobs import output
from jobs.head_probe import probe_command, prototypes_command
from jobs.head_registers import registers_command
from jobs.params import (
    checkpoint_key_option,
    choice_option,
    classes_option,
    path_option,
    read_class_names,
    tower_options,
)
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.head import CheckpointReadout
from schemas.text_tower import TextTowerSpec

if TYPE_CHECKING:
    from pipeline.explain.head import Head
    from pipeline.head.prompts import Prompts

out_option = path_option("--out", required=True, metavar="FILE", text="Head file to write, safetensors.")

_PROMPT_FILES = (".yaml", ".yml", ".json")


@click.group("head")
def head_command() -> None:
    """Make a classifier in a file of its own, for a backbone that has none; or find test-time registers.

    \b
    Examples:
      vitatlas head text --open-clip ViT-B-16-quickgelu --weights clip.safetensors --classes names.txt \\
          --templates openai --out head.safetensors
      vitatlas head probe 'cub-train-{0000..0005}.tar' --classes cub.txt \\
          --model vit_small_patch14_dinov2.lvd142m --pretrained --out cub.safetensors
      vitatlas head extract --checkpoint dinov2_vits14_linear_head.pth --read-out token+mean --out head.safetensors
      vitatlas head registers 'val-{0000..0007}.tar' --model vit_base_patch14_dinov2.lvd142m --pretrained \\
          --out registers.json
    """


@head_command.command("text", short_help="Embed class names or prompts by a text tower.")
@path_option(
    "--classes",
    "classes_file",
    required=True,
    metavar="FILE",
    text="Class names or prompts, one a line; or .yaml with the prompts of each class, as in cat: [a photo of a cat].",
)
@click.option(
    "--templates",
    metavar="openai|simple|FILE",
    help="Templates for the names: the 80 of CLIP or the 7 best of them, or one a line with {} for the name. "
    "Default: each line is a prompt.",
)
@tower_options
@out_option
@output.json_option
def text(
    classes_file: str,
    templates: str | None,
    open_clip: str | None,
    weights: str | None,
    hugging_face: str | None,
    out: str,
    json_: bool,
) -> None:
    """Embed class names or prompts by the text tower of a CLIP or SigLIP, for the maps of texts.

    Each class is the mean of the unit embeddings of its prompts. Nothing is downloaded. Needs the extra clip:
    pip install 'vit-atlas[clip]'.

    \b
    Examples:
      vitatlas head text --open-clip ViT-B-16-quickgelu --weights clip.safetensors --classes names.txt \\
          --templates openai --out head.safetensors
      vitatlas head text --hugging-face siglip-base-patch16-224/ --classes prompts.yaml --out head.safetensors
    """
    from pipeline.head.prompts import Prompts, read_templates

    if not classes_file.lower().endswith(_PROMPT_FILES):
        prompts = Prompts.of_names(read_class_names(classes_file), read_templates(templates) if templates else ())
    elif templates:
        raise UsageError(f"{classes_file}: has whole prompts; leave out --templates {templates}")
    else:
        prompts = Prompts.read(classes_file)
    spec = TextTowerSpec.of_flags(open_clip, weights, hugging_face)
    head = _embed(spec, prompts)
    head.save(out)
    print_head(head, out, json_)


def _embed(spec: TextTowerSpec, prompts: "Prompts") -> "Head":
    """Embed prompts, on a GPU if there is one, with a progress bar."""
    import torch

    from pipeline.head.text_head import text_head
    from pipeline.head.text_tower import TextTower
    from pipeline.utils.progress import progress_bars

    tower = TextTower.load(spec, "cuda" if torch.cuda.is_available() else "cpu")
    with progress_bars() as add_bar:
        return text_head(tower, prompts, add_bar("texts"))


head_command.add_command(probe_command)
head_command.add_command(prototypes_command)
head_command.add_command(registers_command)


@head_command.command("extract", short_help="Take a linear classifier out of a checkpoint.")
@path_option("--checkpoint", required=True, metavar="FILE", text="Classifier or whole network: .safetensors, .pth ….")
@checkpoint_key_option
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
    checkpoint_key: str | None,
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

    head = extract_head(checkpoint, name, read_out, read_class_names(classes_file), checkpoint_key)
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
    if repeated := len(record.classes) - len(set(record.classes)):
        echo(f"note     {repeated} class names occur before; the number of the class tells them apart", err=True)
    computed = f", of a tower with {record.activation_function}" if record.activation_function else ""
    echo(f"reads    {record.read_out} of tokens of width {record.input_width}{computed}")
    echo(f"from     {record.provenance}")
