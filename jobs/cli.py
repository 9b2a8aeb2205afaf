"""``vitatlas``: the commands, loaded when they are called, and the exit code of each error."""

import importlib
import io
import os
import signal
import sys

import click

from pipeline.utils.redaction import redact
from pipeline.utils.terminal import echo
from schemas.errors import AtlasError
from schemas.text import suggest

COMMANDS = {
    "demo": "Run the whole pipeline on a small synthetic dataset.",
    "plan": "Plan a run: count samples, inspect the network, create the arrays.",
    "run": "Compute the maps of every shard that has none yet.",
    "status": "Show the progress of a run, and what failed.",
    "verify": "Verify an atlas: checksums, rows, and recomputed maps.",
    "label": "Make pseudo-masks from the maps, by a policy.",
    "score": "Score localization against ground-truth boxes and masks.",
    "audit": "Create an audit: metric tables, an HTML report and a checksum manifest.",
    "methods": "List the attribution methods, and which are defined for a network.",
    "bench": "Measure the cost of methods on a network and a device.",
    "head": "Make a classifier in a file of its own: out of a checkpoint.",
    "train": "Train a method that has weights of its own.",
}


class Commands(click.Group):
    """Group that imports a command only when it is called, so that ``--help`` does not wait for torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"jobs.{name}"), f"{name}_command")
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and (hint := suggest(args[0], COMMANDS)):
            context.fail(f"No such command {args[0]!r}{hint}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="vit-atlas", prog_name="vitatlas")
def cli() -> None:
    """Attribution maps of vision transformers over image datasets.

    \b
    Try it:          vitatlas demo
    Your shards:     vitatlas run 'train-{0000..1023}.tar' --out ATLAS \\
                         --model vit_base_patch16_224.augreg_in21k_ft_in1k --pretrained

    Completion:      eval "$(_VITATLAS_COMPLETE=bash_source vitatlas)"    in ~/.bashrc; or zsh_source, fish_source

    Exit codes: 0 complete, 1 failed, 2 bad usage, 75 stopped early (run the same command again to resume).
    """


def main() -> None:
    """Run the command line. Errors that a user can fix are one line, not a traceback."""
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes must not import modules from the working folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated job stops as with Ctrl-C
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        for line in text.getvalue().splitlines():
            echo(line, err=True)
        sys.exit(2)
    except click.Abort as abort:
        if isinstance(abort.__cause__ or abort.__context__, EOFError):  # click raises Abort for EOFError, too
            raise
        _ignore_signals()
        echo("vitatlas: stopped early; run the same command again to resume", err=True)
        sys.exit(75)
    except AtlasError as error:
        _ignore_signals()
        echo(redact(f"vitatlas: {error.message}"), err=True)
        for line in error.details:
            echo(redact(f"  {line}"), err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has closed the pipe
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        echo(redact(f"vitatlas: {where}{error.strerror or error}"), err=True)
        sys.exit(2 if isinstance(error, NotADirectoryError | IsADirectoryError) else 1)  # the path itself is wrong


def _ignore_signals() -> None:
    """Ignore further signals: the exit code is decided."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
