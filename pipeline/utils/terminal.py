"""The way to the terminal. Whatever a command prints goes through here, and is escaped: it may hold text from data."""

import click

from schemas.text import escape_control


def echo(line: object = "", err: bool = False) -> None:
    """Print one line; a newline in it is escaped, since data must not be able to begin a line.

    Args:
        line: text to print.
        err: print on standard error.
    """
    click.echo(escape_control(str(line)), err=err)
