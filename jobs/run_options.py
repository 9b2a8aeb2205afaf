"""Flags of ``plan`` and ``run``, and the ``RunSpec`` that they and a spec file describe."""

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from jobs.completion import ready_made_specs
from jobs.params import (
    FOLDER,
    Number,
    artifact_option,
    checkpoint_key_option,
    checkpoint_option,
    choice_option,
    count_option,
    global_pool_option,
    head_option,
    image_size_option,
    methods_option,
    names_option,
    options,
    path_option,
    read_class_names,
    registers_option,
    sample_options,
    split_names,
    tower_options,
)
from schemas.base import mapping
from schemas.errors import UsageError
from schemas.run import LabelForm, RunSpec
from schemas.targets import split_kinds
from schemas.text import suggest
from schemas.text_tower import TextTowerSpec

if TYPE_CHECKING:
    from pipeline.run import ExecutionOptions

spec_options = options(
    click.option(
        "--spec",
        "spec_file",
        shell_complete=ready_made_specs,
        metavar="FILE",
        help="YAML spec, or the name of a ready-made one.",
    ),
    path_option("--root", metavar="DIR", text="Folder or URL of relative shard paths."),
    click.option("--out", type=FOLDER, metavar="ATLAS", help="Output atlas: a folder or any fsspec URL."),
    click.option("--model", metavar="NAME", help="A timm model, local-dir:FOLDER or hf-hub:ORG/NAME."),
    click.option("--pretrained", is_flag=True, default=None, help="Use timm's pretrained weights."),
    checkpoint_option,
    checkpoint_key_option,
    image_size_option,
    global_pool_option,
    head_option,
    registers_option,
    methods_option,
    artifact_option,
    names_option(
        "--targets",
        multiple=True,
        names=lambda context: ("label", "predicted", "top:", "text", "class:"),
        text="What to explain: label and predicted (default), top:K, text (captions), class:NAME|ID,…. The last takes "
        "all that follows, as in label,top:3,class:tabby,207; may be repeated.",
    ),
    path_option(
        "--classes",
        metavar="FILE",
        text="Names of all classes, one a line in the order of the class ids, if labels are names or WordNet ids.",
    ),
    click.option(
        "--label-key", metavar="FIELD", help="Field of the json members that has the labels. Default: the cls members."
    ),
    choice_option(
        "--label-form",
        get_args(LabelForm),
        "How labels are written: class ids, names of --classes, or a 0 or 1 for each class. Default: by what they are; "
        "a label that may be several is refused.",
    ),
    tower_options,
    choice_option("--geometry", ["squash", "crop"], "Resize the whole image (default), or timm's evaluation crop."),
    click.option(
        "--batch-size", "--batch", "batch_size", type=int, metavar="N", help="Images in one forward. Default 32."
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of randomized methods. Default 0."),
    choice_option(
        "--precision",
        ["full", "bfloat16", "float16"],
        "Compute precision: float32 (default), or half under autocast; the error is recorded.",
    ),
    choice_option(
        "--decode",
        ["processes", "gpu"],
        "Decode in processes (default), or baseline JPEGs on the GPU, which changes pixels slightly.",
    ),
    sample_options,
    choice_option(
        "--partial-shards",
        ["refuse", "keep"],
        "Truncated shards: refuse (default) quarantines the shard, keep uses the samples before the damage.",
    ),
    click.option("--allow-pipe", is_flag=True, default=None, help="Accept pipe: shards, which run shell commands."),
)
"""The flags of a run. Each defaults to None, which leaves the field to the spec file."""


execution_flags = options(
    choice_option("--executor", ["ray", "inline"], "Ray actors, or this process.", "ray"),
    click.option(
        "--address", metavar="local|auto|HOST:PORT", help="Ray cluster to use. Default: RAY_ADDRESS, else local."
    ),
    count_option("--actors", text="Maximum number of actors. Default: one for each GPU, else one for each core."),
    choice_option(
        "--device", ["auto", "cpu", "cuda"], "Device of the actors; cuda waits until GPUs are available.", "auto"
    ),
    count_option(
        "--decode-processes",
        minimum=0,
        text="Decoding processes of each actor. Default: 4 beside a GPU, else a thread.",
    ),
    click.option(
        "--timeout",
        type=Number(0, min_open=True),
        metavar="SECONDS",
        help="Maximum time for one shard, then another actor gets it. "
        "Default: 10 times the slowest, at least 600 s; 6 h at first.",
    ),
    click.option(
        "--patience",
        type=Number(0, min_open=True),
        default=600,
        metavar="SECONDS",
        help="Fail the run after this time without any actor.",
    ),
    path_option("--cache", metavar="DIR", text="Local folder of each node for copies of remote shards."),
    count_option("--cache-gb", default=200, text="With --cache: maximum size of the copies on a node."),
    path_option(
        "--log", metavar="FILE", text="Append one line of JSON for each attempt at a shard; - is standard error."
    ),
)
"""The flags of the execution; they do not change the results."""
EXECUTION_FLAGS = tuple(parameter.name for parameter in vars(execution_flags(lambda: None))["__click_params__"])
"""Their parameters."""


def execution_options(flags: Mapping[str, Any]) -> "ExecutionOptions":
    """Return the options of the execution.

    Args:
        flags: values of ``EXECUTION_FLAGS``, and ``allow_pipe``.

    Raises:
        UsageError: the cache is not a local folder.
    """
    from pipeline.run import ExecutionOptions

    cache = flags["cache"]
    if cache and "://" in cache:
        raise UsageError(f"--cache {cache}: is a URL; name a folder on the local disk of each node")
    renamed = {"no_actor_timeout": flags["patience"], "cache": os.path.abspath(cache) if cache else None}
    return ExecutionOptions(**{name: value for name, value in flags.items() if name != "patience"} | renamed)


def run_spec(shards: tuple[str, ...], spec_file: str | None, flags: Mapping[str, Any]) -> RunSpec:
    """Build a spec from a file and flags; flags override the file.

    Args:
        shards: positional arguments.
        spec_file: YAML file, or the name of a ready-made spec.
        flags: values of the flags; None or empty is not overrides.

    Raises:
        UsageError: the file or a field is invalid; the message names it.
    """
    content = _read(spec_file) if spec_file else {}
    overrides = {name: value for name, value in flags.items() if value not in (None, ())}
    if "artifact" in overrides:
        overrides["artifacts"] = overrides.pop("artifact")
    model = content.get("model") or {}
    if not isinstance(model, dict):
        raise UsageError(f"{spec_file}: model: must be a mapping of name and pretrained or checkpoint")
    if "model" in overrides:
        model = {"name": overrides.pop("model")}
    weights = {name: overrides.pop(name) for name in ("pretrained", "checkpoint") if name in overrides}
    if weights:  # the flags override the weights of the file
        model = {"name": model.get("name")} | weights
    others = ("checkpoint_key", "global_pool", "head", "registers", "image_size")
    model = model | {name: overrides.pop(name) for name in others if name in overrides}
    if not model.get("name"):
        raise UsageError("no model: add --model NAME, such as vit_base_patch16_224.augreg_in21k_ft_in1k")
    if "methods" in overrides:
        overrides["methods"] = split_names(overrides["methods"])
    if "targets" in overrides:
        overrides["targets"] = [kind for text in overrides["targets"] for kind in split_kinds(text)]
    tower = {name: overrides.pop(name, None) for name in ("open_clip", "weights", "hugging_face")}
    if any(tower.values()):
        overrides["text_tower"] = TextTowerSpec.of_flags(**tower)
    if "classes" in overrides:
        overrides["classes"] = list(read_class_names(overrides["classes"]))
    if shards:
        overrides["shards"] = list(shards)
    if not overrides.get("shards") and not content.get("shards"):
        raise UsageError("no shards: name them, such as 'train-{0000..1023}.tar' (quoted), or add --spec FILE")
    if "pretrained" not in model and "checkpoint" not in model:
        raise UsageError(f"{model['name']}: has no weights; add --pretrained or --checkpoint FILE")
    return RunSpec.read(content | overrides | {"model": model}, spec_file or "the flags")


def _read(name: str) -> dict[str, Any]:
    """Read a spec file, or a ready-made one of ``jobs/specs`` by its name."""
    folder = files("jobs").joinpath("specs")
    ready = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())
    try:
        text = (folder.joinpath(f"{name}.yaml") if name in ready else Path(name)).read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{name}: is not a text file") from None
    except OSError as error:
        choices = f"ready-made specs are {', '.join(ready)}{suggest(name, ready)}"
        raise UsageError(f"{name}: {error.strerror or error}; {choices}") from None
    return mapping(text, name, "shards, model, methods …")
