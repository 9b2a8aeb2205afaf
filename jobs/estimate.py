"""What a run will take, as ``plan`` and ``demo`` print it."""

import re
from typing import Any

import click

from jobs import show
from schemas.bench import Pilot
from schemas.errors import UsageError
from schemas.run import RunRecord


class Duration(click.ParamType[float]):
    """A time such as 90m, 6h or 2d, in seconds."""

    name = "duration"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|h|d)", str(value).strip())
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no time; write it as 90m, 6h or 2d", parameter, context)
        return float(found[1]) * {"m": 60.0, "h": 3600.0, "d": 86400.0}[found[2]]


def show_estimate(
    run: RunRecord,
    pilot: Pilot,
    actors: int | None = None,
    deadline: float | None = None,
    price: float | None = None,
) -> None:
    """Print what a run will take, from the least to the most where there are targets that the pilot had not.

    Args:
        actors: GPUs, or cores where the device is a CPU; None is as many as the deadline needs, else one.
        deadline: in seconds.
        price: of an actor's hour.

    Raises:
        UsageError: not even one tar is done within the deadline.
    """
    from pipeline.run.estimate import actors_for, estimate

    shares = (0.0, 1.0) if len(run.spec.targets) > pilot.targets else (0.0,)
    device = pilot.device
    what = "core" if device == "cpu" else "GPU"
    expected = [estimate(run, pilot, other=share) for share in shares]
    if deadline is not None:
        needed = actors_for(expected[-1], deadline)
        if needed is None:
            raise UsageError(
                f"--deadline is {_time(deadline)}, and one tar takes {_time(expected[-1].tar_seconds)}; "
                "a tar is not divided: make smaller ones, or wait longer"
            )
        click.echo(f"needed   {needed} × {device} to be done within {_time(deadline)}")
        actors = actors or needed
    actors = actors or 1
    expected = [estimate(run, pilot, actors, share) for share in shares]
    first = expected[0]
    show.table(
        f"time of one {what}, by stage" + ("; decode is of one core" if pilot.decode == "processes" else ""),
        ["stage", *(("least", "most") if len(shares) > 1 else ("time",))],
        [[stage, *(_time(each.seconds[stage]) for each in expected)] for stage in first.seconds],
    )
    times = [_time(3600 * each.hours) for each in expected]
    click.echo(f"time     {_range(times)} on {actors} × {device}, once all have started")
    if first.decode_processes:
        enough = f"; {first.enough_processes} processes a GPU would do (--decode-processes)"
        slow = first.limit == "decoding"
        click.echo(
            f"limit    {'decoding' if slow else 'the GPU'}, with {first.decode_processes} decoding processes a GPU"
            f"{enough if slow else ''}"
        )
    elif pilot.decode == "gpu":
        click.echo(f"limit    the {'network' if device == 'cpu' else 'GPU'}, which decodes as well")
    else:
        click.echo(f"limit    {'decoding' if first.limit == 'decoding' else 'the network'}, on the same core")
    click.echo(f"atlas    about {show.size(first.bytes)} in {first.objects:,} objects")
    if price is not None:
        costs = [f"{each.hours * actors * price:,.2f}" for each in expected]
        click.echo(f"cost     {_range(costs)} at {price:.2f} per {what} hour")
    if len(shares) > 1:
        click.echo("         the second target is computed only where the prediction is not the label")


def _range(amounts: list[str]) -> str:
    """An amount, or the least and the most of it."""
    return " to ".join(dict.fromkeys(amounts))


def _time(seconds: float) -> str:
    """In hours, or below a tenth of one in minutes, or below a tenth of one of these in seconds."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length / 10:
            return f"{seconds / length:,.2f} {unit}"
    return f"{seconds:.2g} s"
