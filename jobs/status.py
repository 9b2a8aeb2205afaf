"""``vitatlas status``."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from jobs import output
from jobs.params import Number, atlases_argument, count_option
from pipeline.utils.terminal import echo
from schemas.errors import RunFailedError, UsageError
from schemas.targets import most_labels
from schemas.token_norms import TokenNorms

if TYPE_CHECKING:
    from pipeline.store import Atlas, MapReader


@click.command("status")
@atlases_argument
@count_option("--failed", "limit", default=20, minimum=0, text="Maximum number of samples without maps to list.")
@output.json_option
@click.option("--watch", "watched", is_flag=True, help="Show live progress until the run ends; works from any machine.")
@click.option(
    "--interval", type=Number(0.1), default=10, metavar="SECONDS", help="With --watch: time between two updates."
)
def status_command(atlases: tuple[str, ...], limit: int, json_: bool, watched: bool, interval: float) -> None:
    """Show the progress of a run, the samples without maps and the quarantined shards, with reasons.

    Several atlases are shown one after another, and then what they are together.

    With --watch the command ends when the run is complete (exit code 0) or has ended without some shards (1). Ctrl-C or
    SIGTERM end it with 75 and do not affect the run. With --json as well, it prints one line of JSON for each update.

    \b
    Examples:
      vitatlas status train.atlas
      vitatlas status first-half.atlas second-half.atlas
      vitatlas status s3://bucket/train.atlas --watch --interval 60
    """
    from pipeline.store import Atlas
    from pipeline.utils.source_name import split_source_name

    urls = [split_source_name(text)[1] for text in atlases]
    if watched:
        from jobs.live_status import watch

        if len(urls) > 1:
            raise UsageError("--watch shows one run; name one atlas")
        watch(urls[0], interval, json_)
        return
    opened = [Atlas.open(url) for url in urls]
    reports = [_describe(each, limit) for each in opened]
    together = _describe_together(Atlas.open(atlases, subset=True)) if len(urls) > 1 else None
    if json_:
        documents = [report | {"accuracy": output.accuracy_document(report["accuracy"])} for report in reports]
        output.print_json(documents[0] if together is None else {"atlases": documents, "together": together})
        return
    for each, report in zip(opened, reports, strict=True):
        _show(each, report)
    if together:
        echo(
            f"together {together['shards']['done']} of {together['shards']['planned']} shards, "
            f"{together['images']['planned']:,} images, as one atlas with the methods {', '.join(together['methods'])}"
        )
        for note in together["notes"]:
            echo(f"         {note}")
        for gap in together["gaps"]:
            echo(f"         no atlas has the shards {gap}")


def _describe_together(joined: "MapReader") -> dict[str, Any]:
    """Describe what several atlases are together."""
    return {
        "methods": list(joined.methods),
        "shards": {"done": len(joined.shard_names), "planned": len(joined.run.shards)},
        "images": {"planned": joined.run.samples},
        "notes": list(joined.notes),
        "gaps": list(joined.gaps),
    }


def _describe(opened: "Atlas", limit: int) -> dict[str, Any]:
    """Describe one atlas, as ``--json`` prints it; but for ``accuracy``, which is not a document yet.

    Args:
        opened: the atlas.
        limit: maximum number of samples without maps.
    """
    import pyarrow.compute as pc

    from pipeline.store.label_accuracy import measure_label_accuracy
    from pipeline.store.versions import VersionCounts
    from pipeline.utils.concurrency import concurrent_map
    from schemas.samples import SampleStatus

    quarantined, images = opened.quarantined(), 0
    statuses, degenerate, isolated, fallbacks = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    norms: list[TokenNorms] = []
    drift: dict[str, float] = {}
    versions = VersionCounts()
    for each in (opened, *opened.parts):
        for commit in each.records():
            if each is opened:  # the samples of parts are the same
                images += commit.rows
                statuses.update(commit.statuses)
                fallbacks.update(commit.fallbacks)
            norms += [commit.token_norms] if commit.token_norms else []
            versions.add(commit.versions)
            for method in each.own.methods:  # its commits name methods that were dropped as well
                degenerate[method] += commit.degenerate.get(method, 0)
                isolated[method] += commit.isolated.get(method, 0)
                if method in commit.drift:
                    drift[method] = max(commit.drift[method], drift.get(method, 0.0))
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

    for result in concurrent_map(without_maps, opened.shard_names):
        if isinstance(result, RunFailedError):
            damaged.append(f"{result}")
        else:
            failed += result[: limit - len(failed)]
    parts = [_describe_part(opened, part) for part in opened.parts]
    accuracy = None if damaged else measure_label_accuracy(opened)
    model = opened.run.model
    joined = TokenNorms.joined(norms)
    return {
        "atlas": opened.objects.url,
        "head": model.head and model.head.model_dump(mode="json"),
        "registers": model.registers and model.registers.model_dump(mode="json"),
        "conversion": model.conversion and model.conversion.model_dump(mode="json"),
        "targets": {target: opened.run.target_in_words(target) for target in opened.run.stored_targets},
        "shards": {"done": len(opened.committed), "planned": len(opened.run.shards)},
        "images": {"done": images, "planned": opened.run.samples},
        "statuses": dict(statuses),
        "accuracy": accuracy,
        "degenerate": dict(+degenerate),
        "isolated": dict(+isolated),
        "token_norms": joined and joined.model_dump(mode="json"),
        "drift": drift,
        "fallbacks": dict(fallbacks),
        "versions": versions.mixed(),
        "problems": {shard.url: shard.fault for shard in opened.run.shards if shard.fault},
        "parts": parts,
        "quarantined": quarantined,
        "damaged": damaged,
        "failed": failed,
    }


def _show(opened: "Atlas", report: dict[str, Any]) -> None:
    """Print the description of one atlas for people."""
    from schemas.samples import SampleStatus

    shards, parts, quarantined = opened.run.shards, report["parts"], report["quarantined"]
    echo(f"{opened.url}: {len(opened.committed)} of {len(shards)} shards are done")
    for part in parts:
        targets = "" if part["targets"] == list(opened.own.spec.target_names) else f" for {', '.join(part['targets'])}"
        methods = ", ".join(part["methods"]) or "no method"
        echo(f"part     {methods}{targets}: {part['done']} of {part['planned']} shards are done")
        for shard, reason in part["quarantined"].items():
            echo(f"         {shard} is quarantined: {reason}")
    for name, text in opened.run.model.details.items():
        echo(f"{name:<8} {text}")
    echo(f"targets: {', '.join(map(opened.run.describe_target, opened.run.stored_targets))}")
    if most_labels(opened.run.spec.targets) > 1 and not report["damaged"] and (count := _count_left_out(opened)):
        echo(f"labels   {count:,} images have more than are explained")
    if norms := report["token_norms"]:
        echo(f"norms    {TokenNorms(**norms).describe(opened.run.model.readout)}")
    output.print_table("images", ["status", "count"], [list(item) for item in report["statuses"].items()])
    output.print_accuracy(report["accuracy"])
    if degenerate := report["degenerate"]:
        output.print_table("degenerate maps (constant or not finite)", ["method", "maps"], list(degenerate.items()))
    if isolated := report["isolated"]:
        output.print_table("maps of a few single patches", ["method", "maps"], list(isolated.items()))
    if drift := report["drift"]:
        rows = [[name, f"{value:.1e}"] for name, value in sorted(drift.items(), key=lambda item: -item[1])]
        output.print_table(
            f"error of {opened.run.spec.precision}, worst shard", ["method", "fraction of the largest value"], rows
        )
    if fallbacks := report["fallbacks"]:
        output.print_table(
            "images decoded in processes instead of on the GPU", ["reason", "images"], Counter(fallbacks).most_common()
        )
    if mixed := report["versions"]:
        rows = [[package, version, f"{n:,}"] for package, counts in mixed.items() for version, n in counts.items()]
        output.print_table("packages of several versions", ["package", "version", "shards"], rows)
    for shard in shards:
        if shard.samples == 0 and not shard.fault:
            echo(f"{shard.url}: holds no samples")
        if shard.fault and shard.name not in quarantined and (shard.partial or shard.name not in opened.committed):
            partial = f"; its first {shard.samples} samples are kept" if shard.partial else ""
            echo(f"{shard.url}: {shard.fault}{partial}")
    for sentence in report["damaged"]:
        echo(sentence)
    if quarantined:
        output.print_table("quarantined shards", ["shard", "reason"], [list(item) for item in quarantined.items()])
    if failed := report["failed"]:
        without = sum(count for status, count in report["statuses"].items() if status != SampleStatus.OK)
        output.print_table(
            f"without maps ({len(failed)} of {without})",
            ["shard", "key", "status", "error"],
            [[row["shard"], row["key"], row["status"], row["error"]] for row in failed],
        )
        echo(f"to retry these after fixing them: vitatlas run {opened.url} --retry-failed")
    if len(opened.committed) < len(shards) or any(part["done"] < part["planned"] for part in parts):
        echo(f"resume with: vitatlas run {opened.url}")


def _describe_part(atlas: "Atlas", part: "Atlas") -> dict[str, Any]:
    """Describe the progress of a part: of the shards that the atlas has finished."""
    return {
        "folder": atlas.folder_of(part),
        "methods": list(part.own.methods),
        "targets": list(part.own.stored_targets),
        "done": len(atlas.committed & part.committed),
        "planned": len(atlas.committed),
        "quarantined": part.quarantined(),
    }


def _count_left_out(atlas: "Atlas") -> int:
    """Return the number of images with more labels than have maps."""
    most, labels = most_labels(atlas.run.spec.targets), atlas.samples_with_maps(["labels"])["labels"]
    return sum(len(found or ()) > most for found in labels.to_pylist())
