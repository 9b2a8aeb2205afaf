"""``vitatlas bench``."""

import os
from pathlib import Path
from typing import Literal

import click

from jobs import output
from jobs.params import choice_option, count_option, head_option, methods_option, path_option, split_names
from pipeline.utils.terminal import echo
from schemas.bench import BenchRecord, EndToEndTiming, MethodCost
from schemas.errors import UsageError
from schemas.run import Decode, ModelSpec, Precision, RunSpec


@click.command("bench")
@click.option(
    "--model", "name", required=True, metavar="NAME", help="A timm model, local-dir:FOLDER or hf-hub:ORG/NAME."
)
@count_option("--classes", text="Classes of the classifier. Default: those of the model.")
@head_option
@methods_option
@click.option(
    "--batch-size",
    "--batch",
    "batch",
    type=click.IntRange(1, 4096),
    default=32,
    metavar="N",
    help="Images in one forward.",
)
@choice_option("--precision", ["full", "bfloat16", "float16"], "Compute precision of the network.", "full")
@choice_option("--decode", ["processes", "gpu"], "Where the planned run decodes images.", "processes")
@choice_option("--device", ["cpu", "cuda"], "Default: cuda if available.")
@count_option("--repeats", default=5, text="Repetitions; the median is reported.")
@count_option("--threads", text="CPU threads. Default: that of torch.")
@path_option(
    "--shard",
    metavar="TAR",
    text="Shard to read and decode images from. Default: generated images of 500 × 375 pixels.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write JSON for plan --bench."
)
@output.json_option
def bench_command(
    name: str,
    classes: int | None,
    head: str | None,
    methods: str | None,
    batch: int,
    precision: Precision,
    decode: Decode,
    device: Literal["cpu", "cuda"] | None,
    repeats: int,
    threads: int | None,
    shard: str | None,
    out: Path | None,
    json_: bool,
) -> None:
    """Measure the cost of methods on a network and a device.

    Costs are in F, one plain forward of the same batch, and include the forward that the methods share: 1.3 F is 0.3 F
    more than the network alone. Weights and images are random, which does not change the time; each image has one
    target. Peak memory is reported on a GPU only. Then one actor (on a CPU: one core) processes images from a shard to
    an atlas, to measure reading and writing for plan --bench.

    \b
    Example:
      vitatlas bench --model vit_base_patch16_224 --methods legrad,reciprocam --out bench.json
    """
    if out and not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist; create it first")
    if threads and threads > (cores := os.cpu_count() or 1):
        raise UsageError(f"--threads {threads}: is more than the CPU cores of this machine; name at most {cores}")

    import torch

    from pipeline.explain import load
    from pipeline.explain.bench import benchmark
    from pipeline.read import expand_shards
    from pipeline.run.bench_end_to_end import bench_end_to_end
    from pipeline.utils.progress import progress_bars

    if shard:
        expand_shards([shard])  # report a mistake before the measurement takes minutes

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with progress_bars() as add_bar:
        record = benchmark(
            name,
            split_names(methods),
            device=device,
            batch_size=batch,
            classes=classes,
            head=head,
            precision=precision,
            repeats=repeats,
            threads=threads,
            progress=add_bar("measure"),
        )
    spec = RunSpec(
        shards=(shard or "generated",),
        model=ModelSpec(name=record.model, pretrained=True),
        methods=tuple(record.per_method),
        targets=("predicted",),
        batch_size=batch,
        precision=precision,
        decode=decode,
    )
    model = load.create_untrained(record.model, head, None if head else record.classes)
    loaded = load.describe_loaded(record.model, model.eval())
    record = record.model_copy(update={"end_to_end": bench_end_to_end(spec, loaded, device, shard)})
    if json_:
        output.print_json(record.model_dump(mode="json"))
    else:
        _show(record)
    if out:
        out.write_bytes(record.to_bytes())


def _show(record: BenchRecord) -> None:
    height, width = record.grid
    echo(f"model    {record.model}, {record.parameters:,} parameters, {height}×{width} patches")
    echo(f"device   {record.device}, threads {record.threads}, precision {record.precision}")
    echo(f"F        {record.forward_seconds:.4g} s for {record.batch_size} images, median")
    forward = MethodCost(
        forwards=1,
        images_per_s=record.batch_size / record.forward_seconds,
        peak_bytes=record.forward_peak_bytes,
        stages={},
    )
    costs = {"plain forward": forward} | record.per_method | {"all together": record.all_methods}
    output.print_table(
        f"each method alone, and all {len(record.per_method)} together",
        ["method", "cost, in F", "images/s", "peak memory"],
        [
            [method, cost.forwards, cost.images_per_s, cost.peak_bytes and output.format_bytes(cost.peak_bytes)]
            for method, cost in costs.items()
        ],
    )
    output.print_table(
        "all together; shared work is attributed to the first method that needs it",
        ["stage", "% of the time"],
        [[stage, 100 * share] for stage, share in record.all_methods.stages.items()],
    )
    if record.end_to_end:
        _print_end_to_end(record.end_to_end)


def _print_end_to_end(timing: EndToEndTiming) -> None:
    stages = timing.seconds if timing.decode == "gpu" else {"decode, a core": timing.decode_seconds} | timing.seconds
    output.print_table(
        f"one actor from shard to atlas: {timing.images} images ({timing.source}), "
        f"{output.format_bytes(timing.bytes)} of maps",
        ["stage", "ms an image"],
        [[stage, 1000 * seconds / timing.images] for stage, seconds in stages.items()],
    )
