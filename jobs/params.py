"""Parameter types, lists and flags that several commands share."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from schemas.errors import UsageError

FILE = click.Path(dir_okay=False)
FOLDER = click.Path(file_okay=False)
PATH_OR_URL = click.Path()
"""A file, a folder or a URL; existence is checked later."""

F = TypeVar("F", bound=Callable[..., Any])


def count_option(flag: str, text: str, default: int | None = None, minimum: int = 1) -> Callable[[F], F]:
    """Return a flag with an integer N.

    Args:
        flag: its name.
        text: help.
        default: shown in the help; None is none.
        minimum: smallest allowed value.
    """
    shown, kind = default is not None, click.IntRange(minimum)
    return click.option(flag, type=kind, default=default, show_default=shown, metavar="N", help=text)


def choice_option(flag: str, choices: Sequence[str], text: str, default: str | None = None) -> Callable[[F], F]:
    """Return a flag with a choice.

    Args:
        flag: its name.
        choices: allowed values.
        text: help.
        default: shown in the help; None is none.
    """
    shown = default is not None
    return click.option(flag, type=click.Choice(choices), default=default, show_default=shown, help=text)


address_option = click.option(
    "--address", metavar="local|auto|HOST:PORT", help="Ray cluster to use. Default: no Ray for up to 64 shards."
)
allow_pipe_option = click.option("--allow-pipe", is_flag=True, help="Allow shards that are shell commands (pipe:…).")
classes_option = click.option(
    "--classes", "classes_file", type=FILE, metavar="FILE", help="Class names, one a line. Default: class ids."
)
target_option = choice_option(
    "--target", ["label", "predicted"], "Class whose maps are used: the label (GT-known) or the prediction.", "label"
)


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """A time such as 90m, 6h or 2d, converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|h|d)", str(value).strip())
        if not match or not float(match[1]):
            self.fail(f"{value!r} is not a time; write it as 90m, 6h or 2d", param, ctx)
        return float(match[1]) * {"m": 60.0, "h": 3600.0, "d": 86400.0}[match[2]]


def split_names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def read_class_names(path: str | None) -> tuple[str, ...]:
    """Read class names from a text file, one a line; return an empty tuple for None.

    Raises:
        UsageError: the file cannot be read, or a line is not a name.
    """
    if path is None:
        return ()
    try:
        lines = Path(path).read_text("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    names = [line.removesuffix("\r") for line in lines]
    for number, name in enumerate(names, 1):
        if not name.strip() or not name.isprintable():
            raise UsageError(f"{path}, line {number}: {name!r} is not a class name; write one name a line")
    return tuple(names)
