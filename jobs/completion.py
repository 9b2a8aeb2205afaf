"""What a shell completes beside commands, flags and files: names after commas. Nothing slow is imported for it."""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import click

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def among(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    """Complete the last of several names after commas, without those that are said already."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        said = before.split(",")
        return [before + comma + name for name in names(context) if name.startswith(last) and name not in said]

    return complete


def of_atlas(context: click.Context) -> list[str]:
    """Methods of the atlas that is named before, if it lies in a local folder."""
    named = [context.params.get("atlas"), *context.args]  # the latter where the line ends with a flag without value
    with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or none at all: the command will say so
        return list(json.loads(Path(next(filter(None, named), ""), "run.json").read_bytes())["methods"])
    return []


def known(context: click.Context) -> list[str]:
    """All methods, as their files say it: to import them takes seconds, in which nobody waits for a Tab."""
    folder = files("pipeline").joinpath("explain", "methods")
    sources = [file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".py")]
    return sorted(name for source in sources for name in re.findall(r'^    base = "(\w+)"', source, re.MULTILINE))


def specs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ready-made specs."""
    names = (file.name.removesuffix(".yaml") for file in files("jobs").joinpath("specs").iterdir())
    return sorted(name for name in names if name.startswith(incomplete))
