"""``vitatlas``: the commands, loaded when they are called, and the exit code of each error."""

import atexit
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import click

from pipeline.utils.redaction import redact
from pipeline.utils.terminal import echo
from schemas.errors import AtlasError
from schemas.text import suggest

COMMANDS = {
    "demo": "Run the whole pipeline on a small synthetic dataset.",
    "pack": "Pack a dataset into shards, with class names and truth.",
    "plan": "Plan a run: count samples, inspect the network, create the arrays.",
    "run": "Compute the maps of every shard that has none yet.",
    "extend": "Add methods to an atlas: compute their maps for the same shards.",
    "drop": "Delete the maps of methods from an atlas.",
    "status": "Show the progress of a run, and what failed.",
    "verify": "Verify an atlas: checksums, rows, and recomputed maps.",
    "label": "Make pseudo-masks from the maps, by a policy.",
    "score": "Score localization against ground-truth boxes and masks.",
    "rank": "Rank methods by signals that need no truth, or by truth, and write a policy.",
    "annotate": "Write a page on which a person draws boxes on images of an atlas.",
    "audit": "Create an audit: metric tables, an HTML report and a checksum manifest.",
    "methods": "List the attribution methods, and which are defined for a network.",
    "bench": "Measure the cost of methods on a network and a device.",
    "head": "Make a classifier in a file of its own: of texts, or out of a checkpoint; find registers.",
    "train": "Train a method that has weights of its own.",
}

_EXIT_SECONDS = 20.0
"""Time for everything that ends with the process: pools, a local Ray cluster, libraries."""


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
    # Python takes its handlers away at its very end, where a signal would change the code of a command that is done.
    atexit.register(_set_handlers, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated job stops as with Ctrl-C
    try:
        code = cli.main(standalone_mode=False)
        _exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        _exit(2, text.getvalue().splitlines())
    except click.Abort as abort:
        if isinstance(abort.__cause__ or abort.__context__, EOFError):  # click raises Abort for EOFError, too
            raise
        eval("None")  # CPython would end by SIGINT after an interrupt inside of exec(), as in the import of a dataclass
        _exit(75, ["vitatlas: stopped early; run the same command again to resume"])
    except AtlasError as error:
        _exit(error.exit_code, [redact(f"vitatlas: {error.message}"), *(redact(f"  {line}") for line in error.details)])
    except BrokenPipeError:  # the reader of our output has closed the pipe
        sys.stdout = None
        _exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = 2 if isinstance(error, NotADirectoryError | IsADirectoryError) else 1  # the path itself is wrong
        _exit(code, [redact(f"vitatlas: {where}{error.strerror or error}")])


def _exit(code: int, message: Sequence[str] = ()) -> NoReturn:
    bound_exit(code)
    for line in message:
        echo(line, err=True)
    if sys.stdout:
        sys.stdout.flush()
    sys.exit(code)


def bound_exit(code: int) -> None:
    """Let a further signal, or an exit that takes too long, end the process at once, with a code that is decided."""

    def end_now(*_: object) -> None:
        if pools := sys.modules.get("pipeline.utils.process_pool"):
            pools.kill_pools()
        os._exit(code)

    _set_handlers(end_now)
    limit = threading.Timer(_EXIT_SECONDS, end_now)
    limit.daemon = True
    limit.start()


def _set_handlers(handler: Callable[..., None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


if __name__ == "__main__":
    main()
