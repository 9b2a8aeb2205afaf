"""Demo of the whole pipeline on a synthetic dataset: shards, atlas, pseudo-masks, scores, contact sheet."""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.demo.contact_sheet import plot_contact_sheet
from pipeline.demo.label_policies import COMBINED_BAND, COMBINED_PAMR, FORMATS, LEGRAD, LEGRAD_PAMR, POLICIES
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
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord

VARIANTS = ("reciprocam:kernel=peak", "reciprocam:kernel=box", "reciprocam:kernel=single")
"""Further methods, besides those with default options."""
ARTIFACTS = (str(MODEL / "gates.safetensors"), str(MODEL / "pm.safetensors"))
"""Artifacts that were trained for the demo model."""
_DATASET_RECORD = "dataset.json"


class SyntheticDatasetRecord(Record):
    """Parameters of the dataset in a folder, so that another one is not written over it.

    Attributes:
        shards: number of shards.
        scenes: number of scenes in each shard.
        seed: seed of the scenes.
    """

    shards: int
    scenes: int
    seed: int


def run_demo(
    folder: Path,
    executor: Executor = "ray",
    shards: int = 4,
    scenes: int = 96,
    log: Callable[[str], None] = lambda line: None,
    on_plan: Callable[[RunRecord, str], None] = lambda record, url: None,
    on_timing: Callable[[RunRecord, EndToEndTiming], None] = lambda record, timing: None,
) -> dict[str, Any]:
    """Run the demo and write ``summary.json``.

    Args:
        folder: output folder for ``shards``, ``truth``, ``atlas``, ``labels``, ``sheet.png``, ``summary.json``.
        executor: executor of the run.
        shards: number of shards.
        scenes: number of scenes in each shard.
        log: called with a line at the start of each stage.
        on_plan: called with the plan and the URL of the atlas.
        on_timing: called with the plan and the timing of a small run.

    Returns:
        The summary.

    Raises:
        UsageError: the folder holds something else.
    """
    start = time.perf_counter()
    dataset = SyntheticDataset(folder, shards, scenes)
    log(f"1/5  synthetic dataset of {shards * scenes} scenes with known truth → {folder}/shards, {folder}/truth")
    _write_dataset_once(dataset)
    url = str(folder / "atlas")
    log(f"2/5  attribution maps of every method → {url}")
    model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
    defaults = tuple(method.spec for method in registry.defaults(load_model(model).anatomy))
    spec = RunSpec(shards=(dataset.shards,), model=model, methods=defaults + VARIANTS, artifacts=ARTIFACTS)
    try:
        record = plan(spec, url)
    except SpecMismatchError:
        raise UsageError(f"{folder}: holds the demo of another version; remove it, or name another folder") from None
    on_plan(record, url)
    timing = bench_end_to_end(record.spec, load_model(model), "auto", record.shards[0].url)
    on_timing(record, timing)
    atlas = run(url, ExecutionOptions(executor))
    log(f"3/5  pseudo-masks by the policies {', '.join(policy.name for policy in POLICIES)} → {folder}/labels")
    truth = read_truth(dataset.truth)
    masks = {}
    for policy in POLICIES:
        (folder / f"{policy.name}.yaml").write_text(yaml.safe_dump(policy.model_dump(mode="json"), sort_keys=False))
        out = str(folder / "labels" / policy.name)
        label(atlas, policy, FORMATS, out)
        masks[policy.name] = _round_scores(score_masks(out, truth))
    log("4/5  scores against the truth, with controls")
    rows = [row for row in score(atlas, truth).to_pylist() if row["method"] in atlas.methods]
    log(f"5/5  contact sheet → {folder}/sheet.png")
    controls_last = [row["method"] for row in sorted(rows, key=lambda row: row["kind"] == "control")]
    _plot_sheet(atlas, truth, controls_last, folder / "sheet.png")
    speeds = images_per_second(atlas)
    summary = {
        "methods": {
            row["method"]: {name: round(row[name], 2) for name in ("pxap", "maxboxacc", "maxboxacc_v2", "gt_known")}
            | {"images_per_s": round(speeds[row["method"]], 1), "kind": row["kind"]}
            for row in rows
        },
        "images": sum(commit.ok for commit in atlas.commits.values()),
        "masks": masks,
        "estimate": _compare(estimate(record, timing), atlas),
        "seconds": round(time.perf_counter() - start, 1),
        "paths": {
            name: str(folder / name) for name in ("shards", "truth", "atlas", "labels", "sheet.png", "summary.json")
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _round_scores(scores: MaskScores) -> dict[str, float]:
    names = ("mean_iou", "precision", "precision_without_ignoring", "coverage")
    return {name: round(getattr(scores, name), 2) for name in names}


def _write_dataset_once(dataset: SyntheticDataset) -> None:
    """Write the dataset unless it exists."""
    record = SyntheticDatasetRecord(shards=dataset.num_shards, scenes=dataset.scenes, seed=dataset.seed)
    file = dataset.folder / _DATASET_RECORD
    if file.exists():
        if SyntheticDatasetRecord.read(file.read_bytes(), str(file)) != record:
            raise UsageError(f"{dataset.folder}: holds another synthetic dataset; name another folder")
        return
    dataset.folder.mkdir(parents=True, exist_ok=True)
    if any(dataset.folder.iterdir()) and not (dataset.folder / "shards").is_dir():
        raise UsageError(f"{dataset.folder}: is not empty; name another folder")
    for name in ("shards", "truth"):  # left by an interrupted call
        shutil.rmtree(dataset.folder / name, ignore_errors=True)
    write_dataset(dataset)
    file.write_bytes(record.to_bytes())


def images_per_second(atlas: Atlas) -> dict[str, float]:
    """Return images per second of each method on one actor: the shared forward and its own part, without reading."""
    seconds: dict[str, float] = defaultdict(float)
    images = 0
    for commit in atlas.commits.values():
        images += commit.rows
        for stage, value in commit.seconds.items():
            seconds[stage] += value
    return {method: images / max(1e-9, seconds["forward"] + seconds[method]) for method in atlas.methods}


def _compare(expected: Estimate, atlas: Atlas) -> dict[str, dict[str, float]]:
    """Return estimated and measured cost of the run, and their ratio."""
    sizes = [size for name, size in atlas.objects.list_all() if name.split("/")[0] in (RUN, MAPS, SAMPLES, COMMITS)]
    actor_seconds = sum(commit.seconds["total"] for commit in atlas.commits.values())
    pairs = {
        "actor_seconds": (3600 * expected.actor_hours, actor_seconds),
        "objects": (expected.objects, len(sizes)),
        "bytes": (expected.bytes, sum(sizes)),
    }
    return {
        name: {"expected": round(estimated, 1), "measured": round(value, 1), "ratio": round(value / estimated, 3)}
        for name, (estimated, value) in pairs.items()
    }


def _plot_sheet(atlas: Atlas, truth: TruthSet, methods: list[str], path: Path) -> None:
    """Plot one sample of each class, from the first shard."""
    shard = next(iter(atlas.commits))
    labels = atlas.shard(shard).samples["label"].to_pylist()
    ordinals = [labels.index(class_id) for class_id in range(len(CLASSES)) if class_id in labels]
    policies = (LEGRAD, LEGRAD_PAMR, COMBINED_PAMR, COMBINED_BAND)
    class_names = [scene_class.name for scene_class in CLASSES]
    plot_contact_sheet(atlas, shard, ordinals, methods, policies, truth, class_names, path)
