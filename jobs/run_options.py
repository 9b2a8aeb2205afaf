"""Flags and spec files to a ``RunSpec``. Shared by ``plan`` and ``run``."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from jobs.completion import among, known, specs
from jobs.names import listed
from jobs.params import FILE, FOLDER
from schemas.base import mapping
from schemas.errors import UsageError
from schemas.run import RunSpec, TargetKind
from schemas.text import suggest

F = TypeVar("F", bound=Callable[..., Any])


def spec_options(function: F) -> F:
    """The flags of a run. Each defaults to None: what is not given is left to the spec file."""
    options = [
        click.option(
            "--spec",
            "spec_file",
            shell_complete=specs,
            metavar="FILE",
            help="YAML spec, or the name of a ready-made one.",
        ),
        click.option("--root", type=FOLDER, metavar="DIR", help="Folder or URL that relative shards stand in."),
        click.option(
            "--out", type=FOLDER, metavar="ATLAS", help="Where the atlas is made: a folder or any fsspec URL."
        ),
        click.option("--model", metavar="NAME", help="A timm model, or local-dir:FOLDER."),
        click.option("--pretrained", is_flag=True, default=None, help="Take the weights that timm knows."),
        click.option("--checkpoint", type=FILE, metavar="FILE", help="Take the weights of a .safetensors file."),
        click.option(
            "--methods",
            shell_complete=among(known),
            metavar="A,B",
            help="Such as legrad,reciprocam:kernel=box. Default: all cheap ones.",
        ),
        click.option(
            "--artifact",
            multiple=True,
            type=FILE,
            metavar="FILE",
            help="Of vitatlas train: gives diffmask or pm its weights; repeat for both.",
        ),
        click.option(
            "--targets",
            shell_complete=among(lambda context: get_args(TargetKind)),
            metavar="A,B",
            help="label, predicted, or both (the default).",
        ),
        click.option(
            "--geometry", type=click.Choice(["squash", "crop"]), help="Whole image (default), or timm's crop."
        ),
        click.option(
            "--batch-size", "--batch", "batch_size", type=int, metavar="N", help="Images a forward. Default 32."
        ),
        click.option("--seed", type=int, metavar="N", help="Of methods that draw at random. Default 0."),
        click.option(
            "--precision",
            type=click.Choice(["full", "bfloat16", "float16"]),
            help="Of the network: float32 (default), or half under autocast; the drift is recorded.",
        ),
        click.option(
            "--decode",
            type=click.Choice(["processes", "gpu"]),
            help="Pictures in processes (default); or plain JPEGs on the GPU, which changes pixels by small amounts.",
        ),
        click.option(
            "--partial-shards",
            type=click.Choice(["refuse", "keep"]),
            help="Of a truncated shard: keep the samples in front of the damage, or set it aside (the default).",
        ),
        click.option("--allow-pipe", is_flag=True, default=None, help="Accept pipe: shards, which run commands."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def run_spec(shards: tuple[str, ...], spec_file: str | None, flags: Mapping[str, Any]) -> RunSpec:
    """A spec from its file, with what the flags say put over it.

    Raises:
        UsageError: a file or a field does not fit; the message names it.
    """
    content = _read(spec_file) if spec_file else {}
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if "artifact" in given:
        given["artifacts"] = given.pop("artifact")
    model = content.get("model") or {}
    if not isinstance(model, dict):
        raise UsageError(f"{spec_file}: model: must be a mapping of name and pretrained or checkpoint")
    if "model" in given:
        model = {"name": given.pop("model")}
    weights = {name: given.pop(name) for name in ("pretrained", "checkpoint") if name in given}
    if weights:  # the flags say where from, whatever the file says
        model = {"name": model.get("name")} | weights
    if not model.get("name"):
        raise UsageError("no model: name one with --model, such as vit_base_patch16_224.augreg_in21k_ft_in1k")
    for name in ("methods", "targets"):
        if name in given:
            given[name] = listed(given[name])
    if shards:
        given["shards"] = list(shards)
    if not given.get("shards") and not content.get("shards"):
        raise UsageError("no shards: name the shards, such as 'train-{0000..1023}.tar' (quoted), or a --spec")
    if "pretrained" not in model and "checkpoint" not in model:
        raise UsageError(f"{model['name']}: say --pretrained, or give its weights with --checkpoint FILE")
    source = spec_file or "the flags"
    return RunSpec.read(content | given | {"model": model}, source)


def _read(name: str) -> dict[str, Any]:
    """The content of a spec file, or of one of those in ``jobs/specs`` by its bare name."""
    folder = files("jobs").joinpath("specs")
    ready = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())
    try:
        text = (folder.joinpath(f"{name}.yaml") if name in ready else Path(name)).read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{name}: is not a text file") from None
    except OSError as error:
        there = f"ready-made specs are {', '.join(ready)}{suggest(name, ready)}"
        raise UsageError(f"{name}: {error.strerror or error}; {there}") from None
    return mapping(text, name, "shards, model, methods …")
