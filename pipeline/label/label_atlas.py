"""Labels of a whole atlas: every shard by one policy, in every requested format."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.label.calibrate import CalibrationSource
from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.formats.base import ExportContext
from pipeline.label.label_shard import check_policy, iter_labels
from pipeline.label.mask import Label
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions
from pipeline.store import Atlas, ObjectStore
from pipeline.store.derived import ProductStore, check_output_dir
from pipeline.store.parquet import from_parquet, to_parquet
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import RunFailedError, UsageError
from schemas.labels import LABELS, LabelingSpec, MergedRecord
from schemas.policy import Policy
from schemas.targets import is_text
from schemas.text import suggest

ABOUT, SUMMARY = "policy.json", "summary.json"
_FOUND_BY_CALIBRATION = ("hash", "threshold", "calibration")


def read_policy(path: str | Path) -> Policy:
    """Read a policy from a YAML file.

    Raises:
        UsageError: there is no such file, it is not YAML, or not a policy.
    """
    return Policy.from_yaml(path)


@dataclass(frozen=True)
class LabelSummary:
    """The labels of an atlas in numbers; ``summary.json`` of their folder.

    Attributes:
        policy: the policy that was applied, with its threshold.
        calibration: one sentence on how the threshold was found; None where the policy has its own.
        counts: number of samples by status.
        area, ignored: mean share of the image, over labels with a mask; None without any.
        merged: objects that were made of all shards together.
    """

    policy: Policy
    calibration: str | None
    counts: dict[str, int]
    area: float | None
    ignored: float | None
    merged: tuple[str, ...]


def label(
    atlas: Atlas,
    policy: Policy,
    formats: Iterable[str],
    out: str,
    calibration: CalibrationSource | None = None,
    classes: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
) -> LabelSummary:
    """Label every finished shard of an atlas. What exists already is not made again.

    Writes ``policy.json``; for each shard the objects of each format, ``labels/<shard>.parquet`` and
    ``commits/<shard>.json``; then what formats merge from all shards, and last ``summary.json``.

    Args:
        atlas: the atlas with the maps.
        policy: how maps become masks.
        formats: names in ``LABEL_FORMATS``.
        out: output folder or URL.
        calibration: images with truth, on which a calibrated policy finds its threshold.
        classes: names of the classes, by class id; empty are those of the atlas.
        options: where it is computed; may shell commands be run to read images.

    Raises:
        UsageError: there is no such format; the atlas has no such method or target; a policy is calibrated and no
            truth is given; the folder holds other labels; or a key occurs in two shards. Nothing is written then.
        CorruptShardError: images that the policy needs cannot be read.
    """
    names = tuple(dict.fromkeys(formats))
    _check_formats(names)
    check_policy(atlas, policy)
    policy = policy.model_copy(update={"target": atlas.find_target(policy.target)})
    if is_text(policy.target) and (by_class := [name for name in names if LABEL_FORMATS[name].needs_class]):
        others = ", ".join(name for name in LABEL_FORMATS if not LABEL_FORMATS[name].needs_class)
        raise UsageError(f"{by_class[0]}: files masks by class, and target {policy.target} has none; take {others}")
    classes = atlas.class_names(classes)
    if any(LABEL_FORMATS[name].names_files_by_key for name in names):
        _refuse_shared_keys(atlas)
    if policy.calibrated and calibration is None:
        raise UsageError(f"policy {policy.name}: its threshold is calibrated; name the truth with --tune FILE|DIR")
    if calibration is not None and not policy.calibrated:
        raise UsageError(f"policy {policy.name}: its threshold is not calibrated; remove --tune, or calibrate it")
    about = LabelingSpec(
        policy=policy.model_dump(mode="json"),
        run=atlas.run.run_hash,
        classes=sha256("\n".join(classes).encode()) if classes else None,
        truth=calibration.truth.digest if calibration else None,
        tuned=(calibration.atlas or atlas).run.run_hash if calibration else None,
    )
    objects = ObjectStore(out)
    if calibration is not None:
        # The threshold of an unfinished command stays, even if there are more images to tune on by now.
        previous = check_output_dir(objects, ABOUT, about, _FOUND_BY_CALIBRATION)
        if previous is not None and previous.threshold is not None:
            threshold, how = previous.threshold, previous.calibration
        else:
            threshold, how = calibration.find_threshold(atlas, policy, options)
        about = about.model_copy(update={"threshold": threshold, "calibration": how})
        policy = policy.with_threshold(threshold)
    about = about.model_copy(update={"hash": policy.digest()})
    context = ExportContext(policy.digest(), classes, atlas.run.spec.grouping)
    title, function = f"label by {policy.name}", partial(_label_shard, policy, names, context, options.allow_pipe)
    needs_gpu = policy.refine is not None
    labels = _Labels(
        title, function, atlas, objects, about=about, uses_gpu=needs_gpu, policy=policy, formats=names, context=context
    )
    return derive(labels, options)


@dataclass(frozen=True, kw_only=True)
class _Labels(DerivedProduct[Atlas, None, LabelSummary]):
    about: LabelingSpec
    about_object = ABOUT
    may_differ = _FOUND_BY_CALIBRATION
    keeps_commits = True
    policy: Policy
    formats: tuple[str, ...]
    context: ExportContext

    def is_complete(self, commit: DerivedCommit) -> bool:
        return set(self.formats) <= set(commit.items)

    def remove_summary(self) -> None:
        for name in (*self._merged(), SUMMARY):
            self.objects.delete(name)

    def _merged(self) -> tuple[str, ...]:
        """Return the merged objects of the last finished command, which may have had other formats."""
        if not self.objects.exists(SUMMARY):
            return ()
        try:
            return MergedRecord.read(self.objects.get(SUMMARY), f"{self.objects.url}/{SUMMARY}").merged
        except UsageError as error:
            raise RunFailedError(f"{error}; remove it, and run the same command again") from None

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> LabelSummary:
        merged = dict.fromkeys(
            objects.put(path, data).path
            for name in LABEL_FORMATS
            if all(name in commit.items for commit in commits.values())
            for path, data in LABEL_FORMATS[name].merge(self.shards, objects.get, self.context)
        )
        records = [commits[shard] for shard in self.shards]
        counts = sum((Counter(record.counts) for record in records), Counter[str]())
        total = {name: sum(record.statistics[name] for record in records) for name in ("area", "ignored", "masks")}
        area, ignored = (total[name] / total["masks"] if total["masks"] else None for name in ("area", "ignored"))
        counts_by_status = dict(sorted(counts.items()))
        summary = LabelSummary(self.policy, self.about.calibration, counts_by_status, area, ignored, tuple(merged))
        content = {**vars(summary), "policy": self.policy.model_dump(mode="json")}
        objects.put(SUMMARY, (json.dumps(content, indent=1) + "\n").encode())
        return summary


def _check_formats(names: Iterable[str]) -> None:
    for name in names:
        if name not in LABEL_FORMATS:
            hint = suggest(name, LABEL_FORMATS)
            raise UsageError(f"there is no label format {name!r}; there are {', '.join(LABEL_FORMATS)}{hint}")


def _refuse_shared_keys(atlas: Atlas) -> None:
    table = atlas.samples(["shard", "key", "status"])
    status = table["status"].cast(pa.string())
    table = table.filter(pc.invert(pc.is_in(status, pa.array(["duplicate_key", "unsafe_key"]))))
    table = table.set_column(1, "key", pc.replace_substring_regex(table["key"], r"^\./", ""))
    counts = pc.value_counts(table["key"])
    shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(shared):
        key = shared[0].as_py()
        shards = table.filter(pc.equal(table["key"], key))["shard"].to_pylist()
        raise UsageError(
            f"{key}: is a key in {shards[0]} and in {shards[1]}, and a format that names files by key would overwrite "
            f"one with the other; take png or parquet"
        )


def _label_shard(
    policy: Policy, formats: tuple[str, ...], context: ExportContext, allow_pipe: bool, task: ShardTask[Atlas, None]
) -> ShardResult:
    objects, shard = task.objects, task.shard
    items = tuple(dict.fromkeys((*(name for name in task.previous_items if name in LABEL_FORMATS), *formats)))
    previous_objects = task.previous.objects if task.previous else ()
    missing = [name for name in items if task.previous is None or name not in task.previous.items]
    needs_heatmap = any(LABEL_FORMATS[name].needs_heatmap for name in missing)
    labels = [
        label if needs_heatmap else label.without_heatmap()
        for label in iter_labels(task.source, shard, policy, allow_pipe)
    ]
    written = [
        objects.put(path, data) for name in missing for path, data in LABEL_FORMATS[name].export(shard, labels, context)
    ]
    rows = [_row(label, context.policy_hash, task.content_hash) for label in labels]
    written.append(objects.put(f"labels/{shard}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=LABELS))))
    records = {record.path: record for record in (*previous_objects, *written)}
    masks = [label for label in labels if label.mask_rle is not None]
    return ShardResult(
        objects=tuple(records[path] for path in sorted(records)),
        counts=dict(sorted(Counter(str(label.status) for label in labels).items())),
        items=items,
        statistics={name: float(sum(getattr(label, name) for label in masks)) for name in ("area", "ignored")}
        | {"masks": float(len(masks))},
    )


_SAMPLE_COLUMNS = ("row", "key", "width", "height", "image_sha256")
_LABEL_COLUMNS = ("status", "threshold", "background", "area", "ignored", "boxes", "probability", "agreement")


def _row(label: Label, policy_hash: str, parent: str) -> dict[str, Any]:
    return {
        **{name: label.sample[name] for name in _SAMPLE_COLUMNS},
        **{name: getattr(label, name) for name in _LABEL_COLUMNS},
        "label": label.class_id,
        "components": None if label.boxes is None else len(label.boxes),
        "policy": policy_hash,
        "parent": parent,
    }


def read_labels(out: str) -> pa.Table:
    """Read the label table of all shards in a folder of labels, by shard name; columns as ``schemas.labels.LABELS``."""
    objects = ObjectStore(out)
    return pa.concat_tables([from_parquet(objects.get(f"labels/{name}")) for name in objects.list("labels")])
