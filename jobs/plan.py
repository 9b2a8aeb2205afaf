"""``vitatlas plan``."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from jobs import output
from jobs.estimate import estimate_cost, print_estimate
from jobs.params import PATH_OR_URL, Duration, Number, path_option
from jobs.run_options import run_spec, spec_options
from pipeline.utils.terminal import echo
from schemas.bench import BenchRecord
from schemas.errors import UsageError
from schemas.run import RunSpec
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord
from schemas.targets import most_labels

_ROW_BYTES = 2000
"""Memory of a row of the sample table, beside its maps, until its shard is written."""


@click.command("plan")
@click.argument("shards", nargs=-1, type=PATH_OR_URL, metavar="SHARD…")
@spec_options
@path_option("--bench", "bench_file", metavar="FILE", text="Output of vitatlas bench: estimate the hours of the run.")
@click.option("--gpus", type=click.IntRange(1, 100_000), metavar="N", help="With --bench: number of GPUs. Default 1.")
@click.option("--deadline", type=Duration(), metavar="6h", help="With --bench: compute how many GPUs this needs.")
@click.option("--price", type=Number(0, 1e6), metavar="PER_GPU_HOUR", help="With --bench: estimate the price.")
@output.json_option
def plan_command(
    shards: tuple[str, ...],
    spec_file: str | None,
    out: str | None,
    bench_file: str | None,
    gpus: int | None,
    deadline: float | None,
    price: float | None,
    json_: bool,
    **flags: Any,
) -> None:
    """Plan a run: count samples, inspect the network, create the arrays.

    SHARD is a path, an fsspec URL, a brace pattern (quote it), a glob, or @FILE with one of these a line.

    \b
    Examples:
      vitatlas plan 'shards/train-{0000..1023}.tar' --out train.atlas \\
          --model vit_base_patch16_224.augreg2_in21k_ft_in1k --pretrained --methods legrad,reciprocam
      vitatlas plan --spec imagenet1k-train --root /data/imagenet --out train.atlas \\
          --bench bench.json --deadline 6h --price 2.50
    """
    if not out:
        raise UsageError("no atlas: name the output with --out ATLAS")
    if not bench_file and (gpus, deadline, price) != (None, None, None):
        raise UsageError("--gpus, --deadline and --price need the output of vitatlas bench: add --bench FILE")
    spec = run_spec(shards, spec_file, flags)
    bench = _read_bench(spec, bench_file) if bench_file else None
    run = plan_with_progress(spec, out)
    cost = estimate_cost(run, bench.end_to_end, gpus, deadline, price) if bench and bench.end_to_end else None
    if json_:
        output.print_json(summarize(run, out) | {"estimate": cost and cost.as_dict()})
        return
    print_plan(run, out)
    if cost:
        print_estimate(cost)


def plan_with_progress(spec: RunSpec, out: str) -> RunRecord:
    """Plan with a progress bar, and warn of damaged shards."""
    from pipeline.run.plan import plan
    from pipeline.utils.progress import progress_bars

    with progress_bars() as add_bar:
        run = plan(spec, out, add_bar("count samples"))
    warn_of_shards(run.shards)
    _note_missing_labels(spec, run)
    return run


def warn_of_shards(shards: Iterable[ShardRecord]) -> None:
    """Warn of damaged and empty shards that are planned, and of files in them that belong to no sample."""
    for shard in shards:
        if shard.fault:
            outcome = f"its first {shard.samples:,} samples are kept" if shard.partial else "it will be quarantined"
            echo(f"warning  {shard.url}: {shard.fault}; {outcome}", err=True)
        elif not shard.samples:
            echo(f"warning  {shard.url}: holds no samples; it will have no rows", err=True)
        if shard.left_out:
            echo(f"note     {shard.url}: {shard.left_out}", err=True)


def _note_missing_labels(spec: RunSpec, run: RunRecord) -> None:
    """Say what becomes of samples without a label, as far as the plan has read of them."""
    if run.is_unlabelled and spec.has_default_targets:
        echo("note     no sample has a label (a .cls member): predictions are explained", err=True)
        return
    unlabelled = sum(shard.unlabelled for shard in run.shards)
    if unlabelled and most_labels(run.spec.targets) and not spec.label_key:
        outcome = "get no maps; --targets predicted explains all samples"
        echo(
            f"warning  {unlabelled:,} of {run.samples:,} samples have no label (a .cls member) and {outcome}", err=True
        )


def summarize(run: RunRecord, out: str) -> dict[str, Any]:
    """Summarize a planned run for ``--json``."""
    height, width = run.model.grid
    maps_per_image = len(run.methods) * len(run.stored_targets)
    maps = run.samples * maps_per_image
    return {
        "atlas": out,
        "model": {"name": run.model.name, "parameters": run.model.parameters, "grid": [height, width]},
        "head": run.model.head and run.model.head.model_dump(mode="json"),
        "registers": run.model.registers and run.model.registers.model_dump(mode="json"),
        "conversion": run.model.conversion and run.model.conversion.model_dump(mode="json"),
        "methods": list(run.methods),
        "targets": list(run.stored_targets),
        "geometry": run.spec.geometry,
        "shards": len(run.shards),
        "slot": run.slot,
        "images": run.samples,
        "maps": maps,
        "bytes": maps * (height * width * 2 + 8),
        "shard_memory": run.slot * (maps_per_image * (height * width * 2 + 9) + _ROW_BYTES),
        "problems": {shard.url: shard.fault for shard in run.shards if shard.fault},
    }


def print_plan(run: RunRecord, out: str) -> None:
    """Print a planned run."""
    height, width = run.model.grid
    summary = summarize(run, out)
    echo(f"atlas    {out}")
    echo(f"model    {run.model.name}, {run.model.parameters:,} parameters, {height}×{width} patches")
    for name, text in run.model.details.items():
        echo(f"{name:<8} {text}")
    echo(f"methods  {', '.join(run.methods)}")
    echo(f"targets  {', '.join(map(run.describe_target, run.stored_targets))}, geometry {run.spec.geometry}")
    echo(f"shards   {len(run.shards)}, of up to {run.slot:,} rows each")
    echo(f"images   {run.samples:,}")
    echo(f"maps     {summary['maps']:,}, at most {output.format_bytes(summary['bytes'])} before compression")
    echo(f"memory   {output.format_bytes(summary['shard_memory'])} in each actor, for the results of a shard")


def _read_bench(spec: RunSpec, file: str) -> BenchRecord:
    """Read the benchmark of a spec.

    Raises:
        UsageError: there is no such file, or it measured something else; the message has the command to run.
    """
    from pipeline.explain.load import absolute_model_name, load_model
    from pipeline.explain.registry import methods as registry

    try:
        bench = BenchRecord.read(Path(file).read_bytes(), file)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    loaded = load_model(spec.model)
    anatomy, head = loaded.anatomy, loaded.record.head
    methods = [method.spec for method in registry.resolve(spec.methods or registry.defaults(anatomy))]
    pairs = {
        "model": (bench.model, absolute_model_name(spec.model.name)),
        "classes": (bench.classes, anatomy.classes),
        "head": (bench.head, head and head.hash),
        "grid": (bench.grid, anatomy.grid),
        "methods": (sorted(bench.per_method), sorted(methods)),
        "batch_size": (bench.batch_size, spec.batch_size),
        "precision": (bench.precision, spec.precision),
    }
    differing = [
        f"{name} is {measured!r}, not {wanted!r}" for name, (measured, wanted) in pairs.items() if measured != wanted
    ]
    if bench.end_to_end is None:
        differing.append("reading and writing were not measured")
    elif bench.end_to_end.decode != spec.decode:
        differing.append(f"decode is {bench.end_to_end.decode!r}, not {spec.decode!r}")
    if differing:
        classifier = ["--head", spec.model.head] if spec.model.head else ["--classes", str(anatomy.classes)]
        arguments = ["--model", spec.model.name, *classifier, "--methods", ",".join(methods)]
        arguments += ["--batch-size", str(spec.batch_size), "--precision", spec.precision]
        arguments += [*(["--decode", spec.decode] if spec.decode != "processes" else []), "--out", file]
        raise UsageError(
            f"{file}: was measured for another run: {'; '.join(differing)}; "
            f"measure this one with: vitatlas bench {shlex.join(arguments)}"
        )
    return bench
