"""The whole job on the demo world: shards, atlas, masks, scores, picture."""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.demo.contact_sheet import plot_contact_sheet
from pipeline.demo.policies import BANDED, FORMATS, PLAIN, POLICIES, REFINED, THREE
from pipeline.demo.scenes import CLASSES
from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL
from pipeline.explain import methods as registry
from pipeline.explain.load import load_model
from pipeline.label import label
from pipeline.run import ExecutionOptions, run
from pipeline.run.bench_end_to_end import bench_end_to_end
from pipeline.run.estimate import estimate
from pipeline.run.execution import Executor
from pipeline.run.plan import plan
from pipeline.score import MaskScores, score, score_masks
from pipeline.store import Atlas
from pipeline.truth import TruthSet, read_truth
from schemas.base import Record
from schemas.bench import EndToEndTiming, Estimate
from schemas.errors import SpecMismatchError, UsageError
from schemas.layout import COMMITS, MAPS, RUN, SAMPLES
from schemas.run import ModelSpec, RunRecord, RunSpec

VARIANTS = ("reciprocam:kernel=peak", "reciprocam:kernel=box", "reciprocam:kernel=single")
"""Shown beside the methods in their default form."""
ARTIFACTS = (str(MODEL / "gates.safetensors"), str(MODEL / "pm.safetensors"))
"""What was trained for the network of the demo."""
_WORLD = "world.json"


class SyntheticDatasetRecord(Record):
    """What the world in a folder was made from; another one is not written over it."""

    shards: int
    scenes: int
    seed: int


def run_demo(
    folder: Path,
    executor: Executor = "ray",
    shards: int = 4,
    scenes: int = 96,
    say: Callable[[str], None] = lambda line: None,
    planned: Callable[[RunRecord, str], None] = lambda record, url: None,
    expected: Callable[[RunRecord, EndToEndTiming], None] = lambda record, pilot: None,
) -> dict[str, Any]:
    """Do the whole job and write ``summary.json``.

    Args:
        folder: gets ``shards``, ``truth``, ``atlas``, ``labels``, ``sheet.png``, ``summary.json``.
        shards, scenes: how many shards, and scenes in each.
        say: told what is being done.
        planned: told what was planned.
        expected: told what a small run took.

    Returns:
        The summary.

    Raises:
        UsageError: the folder holds something else.
    """
    begun = time.perf_counter()
    world = SyntheticDataset(folder, shards, scenes)
    say(f"1/5  a world of {shards * scenes} scenes with known truth → {folder}/shards, {folder}/truth")
    _build(world)
    url = str(folder / "atlas")
    say(f"2/5  attribution maps of every method → {url}")
    model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
    usual = tuple(method.spec for method in registry.defaults(load_model(model).anatomy))
    spec = RunSpec(shards=(world.shards,), model=model, methods=usual + VARIANTS, artifacts=ARTIFACTS)
    try:
        record = plan(spec, url)
    except SpecMismatchError:
        raise UsageError(f"{folder}: holds the demo of another version; remove it, or name another folder") from None
    planned(record, url)
    small = bench_end_to_end(record.spec, load_model(model), "auto", record.shards[0].url)
    expected(record, small)
    atlas = run(url, ExecutionOptions(executor))
    say(f"3/5  pseudo-masks by the policies {', '.join(each.name for each in POLICIES)} → {folder}/labels")
    truth = read_truth(world.truth)
    masks = {}
    for policy in POLICIES:
        (folder / f"{policy.name}.yaml").write_text(yaml.safe_dump(policy.model_dump(mode="json"), sort_keys=False))
        out = str(folder / "labels" / policy.name)
        label(atlas, policy, FORMATS, out)
        masks[policy.name] = _figures(score_masks(out, truth))
    say("4/5  scores against the truth, controls included")
    table = [row for row in score(atlas, truth).to_pylist() if row["method"] in atlas.methods]
    say(f"5/5  a picture of it all → {folder}/sheet.png")
    by_score = [row["method"] for row in sorted(table, key=lambda row: row["kind"] == "control")]
    _sheet(atlas, truth, by_score, folder / "sheet.png")
    speeds = images_per_second(atlas)
    summary = {
        "methods": {
            row["method"]: {name: round(row[name], 2) for name in ("pxap", "maxboxacc", "maxboxacc_v2", "gt_known")}
            | {"images_per_s": round(speeds[row["method"]], 1), "kind": row["kind"]}
            for row in table
        },
        "images": sum(commit.ok for commit in atlas.commits.values()),
        "masks": masks,
        "estimate": _compared(estimate(record, small), atlas),
        "seconds": round(time.perf_counter() - begun, 1),
        "paths": {
            name: str(folder / name) for name in ("shards", "truth", "atlas", "labels", "sheet.png", "summary.json")
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _figures(scores: MaskScores) -> dict[str, float]:
    names = ("mean_iou", "precision", "precision_without_ignoring", "coverage")
    return {name: round(getattr(scores, name), 2) for name in names}


def _build(world: SyntheticDataset) -> None:
    """Write the world, unless it is there already."""
    record = SyntheticDatasetRecord(shards=world.num_shards, scenes=world.scenes, seed=world.seed)
    mark = world.folder / _WORLD
    if mark.exists():
        if SyntheticDatasetRecord.read(mark.read_bytes(), str(mark)) != record:
            raise UsageError(f"{world.folder}: holds another demo world; name another folder")
        return
    world.folder.mkdir(parents=True, exist_ok=True)
    if any(world.folder.iterdir()) and not (world.folder / "shards").is_dir():
        raise UsageError(f"{world.folder}: is not empty; name another folder")
    for part in ("shards", "truth"):  # left over from a build that was cut short
        shutil.rmtree(world.folder / part, ignore_errors=True)
    write_dataset(world)
    mark.write_bytes(record.to_bytes())


def images_per_second(atlas: Atlas) -> dict[str, float]:
    """Images a second of each method on one actor: the shared forward and its own part, without reading."""
    seconds: dict[str, float] = defaultdict(float)
    images = 0
    for commit in atlas.commits.values():
        images += commit.rows
        for stage, value in commit.seconds.items():
            seconds[stage] += value
    return {method: images / max(1e-9, seconds["forward"] + seconds[method]) for method in atlas.methods}


def _compared(expected: Estimate, atlas: Atlas) -> dict[str, dict[str, float]]:
    """What was expected of a run beside what it took, and the ratio of the two."""
    there = [size for name, size in atlas.objects.walk() if name.split("/")[0] in (RUN, MAPS, SAMPLES, COMMITS)]
    pairs = {
        "actor_seconds": (3600 * expected.actor_hours, sum(each.seconds["total"] for each in atlas.commits.values())),
        "objects": (expected.objects, len(there)),
        "bytes": (expected.bytes, sum(there)),
    }
    return {
        name: {"expected": round(before, 1), "measured": round(after, 1), "ratio": round(after / before, 3)}
        for name, (before, after) in pairs.items()
    }


def _sheet(atlas: Atlas, truth: TruthSet, methods: list[str], path: Path) -> None:
    """One sample of each class, from the first shard."""
    shard = next(iter(atlas.commits))
    labels = atlas.shard(shard).samples["label"].to_pylist()
    rows = [labels.index(index) for index in range(len(CLASSES)) if index in labels]
    names = [each.name for each in CLASSES]
    plot_contact_sheet(atlas, shard, rows, methods, (PLAIN, REFINED, THREE, BANDED), truth, names, path)
