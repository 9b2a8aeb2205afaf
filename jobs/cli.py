"""``vitatlas``: the commands, loaded when they are called, and what their errors look like."""

import importlib
import os
import signal
import sys

import click

from pipeline.utils.redaction import redact
from schemas.errors import AtlasError
from schemas.text import escape_control, suggest

COMMANDS = {
    "demo": "See the whole job on a small world with known truth.",
    "plan": "Freeze a run: count the shards, look at the network, create the arrays.",
    "run": "Compute the maps of every shard that has none yet.",
    "status": "Say how far a run is, and what failed.",
    "verify": "Check an atlas: all that was committed is there, as it was, and nothing else.",
    "label": "Make pseudo-masks from the maps, by a policy.",
    "score": "Measure localization against boxes and masks.",
    "audit": "Make an audit: tables, a report to look at, and what it takes to check both.",
    "methods": "List the attribution methods, and which apply to a network.",
    "bench": "Measure what methods cost on a network and a device.",
    "train": "Train an explainer that has weights of its own.",
}


class Commands(click.Group):
    """Imports a command when it is asked for, so that ``--help`` does not wait for torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"jobs.{name}").command
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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vit-atlas", prog_name="vitatlas")
def cli() -> None:
    """Attribution maps of vision transformers over image shards: an atlas to label from and to audit.

    \b
    See it work:     vitatlas demo
    On your shards:    vitatlas run 'train-{0000..1023}.tar' --out ATLAS \\
                         --model vit_base_patch16_224.augreg_in21k_ft_in1k --pretrained

    Completion:      eval "$(_VITATLAS_COMPLETE=bash_source vitatlas)"    in ~/.bashrc; or zsh_source, fish_source

    Exit codes: 0 complete, 1 failed, 2 bad usage, 75 stopped early (the same command goes on).
    """


def main() -> None:
    """Run the command line. Errors that a person can mend are one line, not a traceback."""
    os.environ["PYTHONSAFEPATH"] = "1"  # no process that is started imports what lies in the working folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that has to go stops like Ctrl-C
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort as abort:
        if isinstance(abort.__cause__ or abort.__context__, EOFError):  # click takes that for Ctrl-D
            raise
        _no_more_signals()
        click.echo("vitatlas: stopped early; the same command goes on", err=True)
        sys.exit(75)
    except AtlasError as error:
        _no_more_signals()
        click.echo(escape_control(redact(f"vitatlas: {error}")), err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(escape_control(redact(f"vitatlas: {where}{error.strerror or error}")), err=True)
        sys.exit(2 if isinstance(error, NotADirectoryError | IsADirectoryError) else 1)  # a name that cannot be meant


def _no_more_signals() -> None:
    """The exit code is settled: who presses Ctrl-C again wants the same."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
