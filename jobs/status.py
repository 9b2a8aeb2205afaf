"""``vitatlas status``."""

from collections import Counter
from typing import Any

import click

from jobs import output
from jobs.params import PLACE, Number
from schemas.text import escape_control


@click.command("status")
@click.argument("atlas", type=PLACE)
@click.option(
    "--failed",
    "limit",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="List at most so many samples that have no maps.",
)
@output.json_option
@click.option("--watch", "watched", is_flag=True, help="Show how the run goes, from any machine, until it is over.")
@click.option(
    "--interval",
    type=Number(0.1),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: between two looks.",
)
def command(atlas: str, limit: int, json_: bool, watched: bool, interval: float) -> None:
    """Say how far a run is, which samples have no maps, which shards could not be done, and why.

    With --watch it ends when all is done (exit code 0), or when a run has ended without some shards (1); stopped
    (Ctrl-C, SIGTERM) with 75, and the run goes on. With --json as well it prints a line of JSON at each look.

    \b
    Examples:
      vitatlas status train.atlas
      vitatlas status s3://bucket/train.atlas --watch --interval 60
    """
    if watched:
        from jobs.live_status import watch

        watch(atlas, interval, json_)
        return
    import pyarrow.compute as pc

    from pipeline.store import Atlas
    from pipeline.utils.concurrency import concurrent_map
    from schemas.errors import RunFailedError
    from schemas.samples import SampleStatus

    opened = Atlas.open(atlas)
    aside, images = opened.quarantined(), 0
    statuses: Counter[str] = Counter()
    degenerate: Counter[str] = Counter()
    fallbacks: Counter[str] = Counter()
    drift: dict[str, float] = {}
    for commit in opened.records():
        images += commit.rows
        statuses.update(commit.statuses)
        degenerate.update(commit.degenerate)
        fallbacks.update(commit.fallbacks)
        drift |= {name: max(value, drift.get(name, 0.0)) for name, value in commit.drift.items()}
    without = statuses.total() - statuses[SampleStatus.OK]
    failed: list[dict[str, Any]] = []
    damaged = []

    def without_maps(shard_name: str) -> list[dict[str, Any]] | RunFailedError:
        try:
            samples = opened.samples_of(shard_name, ["shard", "key", "status", "error"])
        except RunFailedError as error:
            return error
        rows: list[dict[str, Any]] = (
            samples.filter(pc.not_equal(samples["status"].cast("string"), SampleStatus.OK)).slice(0, limit).to_pylist()
        )
        return rows

    for found in concurrent_map(without_maps, opened.shard_names):
        if isinstance(found, RunFailedError):
            damaged.append(f"{found}")
        else:
            failed += found[: limit - len(failed)]
    report = {
        "atlas": opened.objects.url,
        "shards": {"done": len(opened.committed), "planned": len(opened.run.shards)},
        "images": {"done": images, "planned": opened.run.samples},
        "statuses": dict(statuses),
        "degenerate": dict(degenerate),
        "drift": drift,
        "fallbacks": dict(fallbacks),
        "problems": {shard.url: shard.fault for shard in opened.run.shards if shard.fault},
        "quarantined": aside,
        "damaged": damaged,
        "failed": failed,
    }
    if json_:
        output.as_json(report)
        return
    click.echo(f"{opened.objects.url}: {len(opened.committed)} of {len(opened.run.shards)} shards are done")
    output.table("images", ["status", "count"], [[name, count] for name, count in statuses.items()])
    if degenerate:
        output.table("maps that say nothing (constant or not finite)", ["method", "maps"], list(degenerate.items()))
    if drift:
        rows = [[name, f"{value:.1e}"] for name, value in sorted(drift.items(), key=lambda item: -item[1])]
        output.table(f"drift by {opened.run.spec.precision}, worst shard", ["method", "of the largest value"], rows)
    if fallbacks:
        output.table("not decoded on the GPU, but in processes", ["reason", "images"], fallbacks.most_common())
    for shard in opened.run.shards:
        if shard.fault and shard.name not in aside and (shard.partial or shard.name not in opened.committed):
            kept = f"; its first {shard.samples} samples are kept" if shard.partial else ""
            click.echo(escape_control(f"{shard.url}: {shard.fault}{kept}"))
    for sentence in damaged:
        click.echo(escape_control(sentence))
    if aside:
        output.table(
            "shards that the last run could not do", ["shard", "reason"], [list(each) for each in aside.items()]
        )
    if failed:
        output.table(
            f"without maps ({len(failed)} of {without})",
            ["shard", "key", "status", "error"],
            [[row["shard"], row["key"], row["status"], row["error"]] for row in failed],
        )
        click.echo(f"to try these again, once mended: vitatlas run {atlas} --retry-failed")
    if len(opened.committed) < len(opened.run.shards):
        click.echo(f"go on with: vitatlas run {atlas}")
