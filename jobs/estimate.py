"""What a run will take, as ``plan`` and ``demo`` print it."""

import re
from dataclasses import dataclass
from typing import Any

import click

from jobs import output
from schemas.bench import EndToEndTiming, Estimate
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


@dataclass(frozen=True)
class Expected:
    """What a run will take.

    Attributes:
        least, most: differ where there are targets that the pilot had not; each is of ``actors``.
        needed: actors to be done by the deadline; None without one.
        deadline: in seconds.
        price: of an actor's hour.
        decode: where pictures are decoded; see ``EndToEndTiming``.
    """

    least: Estimate
    most: Estimate
    needed: int | None
    deadline: float | None
    price: float | None
    decode: str

    @property
    def both(self) -> list[Estimate]:
        """The least and the most, or one of them where they are equal."""
        return [self.least] if self.least == self.most else [self.least, self.most]

    def cost(self, each: Estimate) -> float | None:
        """Of all actors, until they are done."""
        return None if self.price is None else each.hours * each.actors * self.price

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        ends = {"least": self.least, "most": self.most}
        return {name: each.model_dump(mode="json") | {"cost": self.cost(each)} for name, each in ends.items()} | {
            "needed": self.needed,
            "deadline": self.deadline,
        }


def expect(
    run: RunRecord,
    pilot: EndToEndTiming,
    actors: int | None = None,
    deadline: float | None = None,
    price: float | None = None,
) -> Expected:
    """Say what a run will take.

    Args:
        actors: GPUs, or cores where the device is a CPU; None is as many as the deadline needs, else one.
        deadline: in seconds.
        price: of an actor's hour.

    Raises:
        UsageError: not even one shard is done within the deadline.
    """
    from pipeline.run.estimate import actors_for, estimate

    other = 1.0 if len(run.spec.targets) > pilot.targets else 0.0
    most, needed = estimate(run, pilot, other=other), None
    if deadline is not None:
        needed = actors_for(most, deadline)
        if needed is None:
            raise UsageError(
                f"--deadline is {_time(deadline)}, and one shard takes {_time(most.shard_seconds)}; "
                "a shard is not divided: make smaller ones, or wait longer"
            )
    number = actors or needed or 1
    least, most = estimate(run, pilot, number, 0.0), estimate(run, pilot, number, other)
    return Expected(least, most, needed, deadline, price, pilot.decode)


def show_estimate(expected: Expected) -> None:
    """Print what a run will take, from the least to the most."""
    first, both = expected.least, expected.both
    what = "core" if first.device == "cpu" else "GPU"
    if expected.needed is not None and expected.deadline is not None:
        click.echo(f"needed   {expected.needed} × {first.device} to be done within {_time(expected.deadline)}")
    output.table(
        f"time of one {what}, by stage" + ("; decode is of one core" if expected.decode == "processes" else ""),
        ["stage", *(("least", "most") if len(both) > 1 else ("time",))],
        [[stage, *(_time(each.seconds[stage]) for each in both)] for stage in first.seconds],
    )
    times = [_time(3600 * each.hours) for each in both]
    click.echo(f"time     {_range(times)} on {first.actors} × {first.device}, once all have started")
    if first.decode_processes:
        enough = f"; {first.sufficient_processes} processes a GPU would do (--decode-processes)"
        slow = first.bottleneck == "decoding"
        click.echo(
            f"limit    {'decoding' if slow else 'the GPU'}, with {first.decode_processes} decoding processes a GPU"
            f"{enough if slow else ''}"
        )
    elif expected.decode == "gpu":
        click.echo(f"limit    the {'network' if first.device == 'cpu' else 'GPU'}, which decodes as well")
    else:
        click.echo(f"limit    {'decoding' if first.bottleneck == 'decoding' else 'the network'}, on the same core")
    click.echo(f"atlas    about {output.size(first.bytes)} in {first.objects:,} objects")
    if expected.price is not None:
        costs = [f"{expected.cost(each):,.2f}" for each in both]
        click.echo(f"cost     {_range(costs)} at {expected.price:.2f} per {what} hour")
    if len(both) > 1:
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
