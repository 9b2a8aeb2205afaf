"""What arguments are: files, folders and URLs, which a shell completes, and numbers that are numbers."""

import math
from typing import Any

import click

FILE = click.Path(dir_okay=False)
FOLDER = click.Path(file_okay=False)
PLACE = click.Path()
"""A file, a folder or a URL, of which nothing is asked here."""


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
