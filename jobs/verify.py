"""``vitatlas verify``."""

from collections.abc import Callable, Sequence

import click

from jobs import output
from jobs.params import PLACE
from schemas.errors import RunFailedError, StoppedEarlyError
from schemas.text import escape_control

_NAMED = 10
"""Shards that a message names."""


@click.command("verify")
@click.argument("atlas", type=PLACE)
@click.option(
    "--recompute",
    "count",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    metavar="N",
    help="Compute the maps of N samples again, and compare.",
)
@click.option("--allow-pipe", is_flag=True, help="Accept pipe: shards, which run commands.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the draw of those samples.")
@output.json_option
def command(atlas: str, count: int, seed: int, allow_pipe: bool, json_: bool) -> None:
    """Check an atlas: that all that was committed is there, as it was, and nothing else.

    Recounts rows, compares lengths and checksums, looks for maps that are missing or not finite, for keys that
    come twice and for objects that belong to nothing; and computes a few maps again from the shards. Prints a
    line for each fault. Exits with 1 if there is one, with 75 if all is well but the run is not complete.

    \b
    Examples:
      vitatlas verify train.atlas
      vitatlas verify train.atlas --recompute 0
    """
    from rich.console import Console
    from rich.progress import Progress

    from pipeline.store.verify import verify

    console = Console(stderr=True)
    again = None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:

        def shown(what: str) -> Callable[[int, int], None]:
            task = bar.add_task(what, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        verdict = verify(atlas, shown("verify"))
        if count and not verdict.faults:
            from pipeline.run.recompute import recompute

            again = recompute(atlas, count, seed, allow_pipe, shown("compute again"))
    faults, damaged = (again or verdict).faults, (again or verdict).damaged
    if json_:
        compared = {"atlas": atlas, "objects": verdict.objects, "missing": verdict.missing}
        computed = again and {"maps": again.maps, "equal": again.equal, "notes": again.notes}
        output.as_json(compared | {"recomputed": computed, "faults": faults, "damaged": damaged})
    else:
        click.echo(f"{atlas}: {verdict.objects:,} objects were compared with their commits")
        if again:
            click.echo(f"{atlas}: {again.maps:,} maps were computed again, {again.equal:,} of them equal bit by bit")
            for note in again.notes:
                click.echo(escape_control(f"note     {note}"))
        for fault in faults:
            click.echo(escape_control(f"fault    {fault}"))
    if faults:
        raise RunFailedError(f"{atlas}: faults: {len(faults)}; {_mend(atlas, damaged)}")
    if verdict.missing:
        raise StoppedEarlyError(f"{verdict.missing} shards are not done yet; go on with: vitatlas run {atlas}")


def _mend(atlas: str, damaged: Sequence[str]) -> str:
    """What to do about it."""
    if not damaged:
        return (
            "what belongs to nothing can be removed; metadata of maps is written again by the command that planned it"
        )
    records = " ".join(f"{atlas}/commits/{shard}.json" for shard in damaged[:_NAMED])
    more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
    return f"to have these shards done again, remove {records}{more}, and: vitatlas run {atlas}"
