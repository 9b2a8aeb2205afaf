"""Shell completion of comma-separated names, without importing anything slow."""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from schemas.targets import target_names

NamesOf = Callable[[click.Context], Iterable[str]]
Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def complete_comma_separated(names_of: NamesOf) -> Completer:
    """Build a completer for the last of several comma-separated names; names already in the list are left out."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, prefix = incomplete.rpartition(",")
        used = before.split(",")
        return [before + comma + name for name in names_of(context) if name.startswith(prefix) and name not in used]

    return complete


def methods_of_atlas(context: click.Context) -> list[str]:
    """List the methods of the atlas that the command line names, if it is a local folder."""
    return _names_in_run(context, lambda run: run["methods"])


def targets_of_atlas(context: click.Context) -> list[str]:
    """List the targets of the atlas that the command line names, if it is a local folder."""
    return _names_in_run(context, lambda run: target_names(run["spec"]["targets"]))


def _names_in_run(context: click.Context, select: Callable[[Any], Iterable[str]]) -> list[str]:
    sources = context.params.get("sources") or context.params.get("atlases") or ()
    # The rest of the line, if it ends in a flag without a value.
    arguments = [context.params.get("atlas"), *(source.rpartition("=")[2] for source in sources), *context.args]
    # No atlas, or a damaged one, is what the command will report.
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = select(json.loads(Path(next(filter(None, arguments), ""), "run.json").read_bytes()))
        return [name for name in names if re.fullmatch(r"[\w.:-]+", name, re.ASCII)]  # the shell prints what it gets
    return []


def all_methods(context: click.Context) -> list[str]:
    """List all methods from their source files; importing them would take seconds."""
    folder = files("pipeline").joinpath("explain", "attribution")
    sources = [source.read_text("utf-8") for source in folder.iterdir() if source.name.endswith(".py")]
    return sorted(name for text in sources for name in re.findall(r'^    base_name = "(\w+)"', text, re.MULTILINE))


def ready_made_specs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """List the specs in ``jobs/specs``."""
    names = (entry.name.removesuffix(".yaml") for entry in files("jobs").joinpath("specs").iterdir())
    return sorted(name for name in names if name.startswith(incomplete))
