"""Expected cost of a run, as ``plan`` and ``demo`` print it."""

from dataclasses import dataclass
from typing import Any

from jobs import output
from pipeline.utils.progress import format_time
from pipeline.utils.terminal import echo
from schemas.bench import EndToEndTiming, Estimate
from schemas.errors import UsageError
from schemas.run_record import RunRecord


@dataclass(frozen=True)
class CostRange:
    """Expected cost of a run, from the least to the most.

    Attributes:
        least, most: estimates for ``actors``; they differ if the run has targets that the benchmark had not.
        needed: actors needed to meet the deadline; None without a deadline.
        deadline: seconds.
        price: of one actor for one hour.
        decode: where images are decoded, see ``EndToEndTiming``.
    """

    least: Estimate
    most: Estimate
    needed: int | None
    deadline: float | None
    price: float | None
    decode: str

    @property
    def estimates(self) -> list[Estimate]:
        """The least and the most, or one of them if they are equal."""
        return [self.least] if self.least == self.most else [self.least, self.most]

    def price_of(self, estimate: Estimate) -> float | None:
        """Return the price of all actors for the whole run; None without a price."""
        return None if self.price is None else estimate.hours * estimate.actors * self.price

    def as_dict(self) -> dict[str, Any]:
        """Return the estimates for ``--json``."""
        ends = {"least": self.least, "most": self.most}
        dumped = {name: item.model_dump(mode="json") | {"cost": self.price_of(item)} for name, item in ends.items()}
        return dumped | {"needed": self.needed, "deadline": self.deadline}


def estimate_cost(
    run: RunRecord,
    timing: EndToEndTiming,
    actors: int | None = None,
    deadline: float | None = None,
    price: float | None = None,
) -> CostRange:
    """Estimate the cost of a run.

    Args:
        run: the planned run.
        timing: end-to-end timing of the benchmark.
        actors: GPUs, or cores if the device is a CPU; None is as many as the deadline needs, else 1.
        deadline: seconds; None is no deadline.
        price: of one actor for one hour.

    Raises:
        UsageError: one shard takes longer than the deadline.
    """
    from pipeline.run.estimate import actors_for_deadline, estimate

    other = 1.0 if len(run.spec.target_names) > timing.targets else 0.0
    most, needed = estimate(run, timing, other_class_share=other), None
    if deadline is not None:
        needed = actors_for_deadline(most, deadline)
        if needed is None:
            raise UsageError(
                f"--deadline is {format_time(deadline)}, and one shard takes {format_time(most.shard_seconds)}; "
                "a shard cannot be divided: make smaller shards, or allow more time"
            )
    number = actors or needed or 1
    least, most = estimate(run, timing, number, 0.0), estimate(run, timing, number, other)
    return CostRange(least, most, needed, deadline, price, timing.decode)


def print_estimate(cost: CostRange) -> None:
    """Print the expected cost of a run."""
    least, estimates = cost.least, cost.estimates
    unit = "core" if least.device == "cpu" else "GPU"
    if cost.needed is not None and cost.deadline is not None:
        echo(f"needed   {cost.needed} × {least.device} to finish within {format_time(cost.deadline)}")
    output.print_table(
        f"time of one {unit}, by stage" + ("; decode is of one core" if cost.decode == "processes" else ""),
        ["stage", *(("least", "most") if len(estimates) > 1 else ("time",))],
        [[stage, *(format_time(item.seconds[stage]) for item in estimates)] for stage in least.seconds],
    )
    times = [format_time(3600 * item.hours) for item in estimates]
    echo(f"time     {_format_range(times)} on {least.actors} × {least.device}, without the start of the actors")
    if least.decode_processes:
        enough = f"; {least.sufficient_processes} processes a GPU are enough (--decode-processes)"
        slow = least.bottleneck == "decoding"
        echo(
            f"limit    {'decoding' if slow else 'the GPU'}, with {least.decode_processes} decoding processes a GPU"
            f"{enough if slow else ''}"
        )
    elif cost.decode == "gpu":
        echo(f"limit    the {'network' if least.device == 'cpu' else 'GPU'}, which decodes, too")
    else:
        echo(f"limit    {'decoding' if least.bottleneck == 'decoding' else 'the network'}, on the same core")
    echo(f"atlas    about {output.format_bytes(least.bytes)} in {least.objects:,} objects")
    if cost.price is not None:
        prices = [f"{cost.price_of(item):,.2f}" for item in estimates]
        echo(f"cost     {_format_range(prices)} at {cost.price:.2f} per {unit} hour")
    if len(estimates) > 1:
        echo("         the second target is computed only where the prediction differs from the label")


def _format_range(amounts: list[str]) -> str:
    return " to ".join(dict.fromkeys(amounts))
