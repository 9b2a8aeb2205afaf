"""The product that labels are: their table, every format, and what formats merge from all shards."""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.label.formats import LABEL_FORMATS
from pipeline.label.formats.base import ExportContext
from pipeline.label.mask import Label
from pipeline.label.mask_statistics import STATISTICS, sum_statistics
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask
from pipeline.store import MapReader
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import to_parquet
from schemas.base import Record
from schemas.commits import DerivedCommit
from schemas.errors import RunFailedError, UsageError
from schemas.labels import LABELS, MergedRecord
from schemas.targets import is_text
from schemas.text import suggest

Input = TypeVar("Input")
Summary = TypeVar("Summary")

SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True)
class MaskTotals:
    """The masks of all shards in numbers; None where there is nothing to take the mean of.

    Attributes:
        area, ignored: mean share of the image, over labels with a mask.
        left_out: share of these that are made of fewer maps than the policy has methods.
        border: share of the masks with foreground that have more than half of it in the frame of the image.
        likeness: mean IoU of successive masks with foreground, on a coarse grid.
    """

    area: float | None
    ignored: float | None
    left_out: float | None
    border: float | None
    likeness: float | None


@dataclass(frozen=True, kw_only=True)
class LabelTotals(MaskTotals):
    """The labels of all shards in numbers.

    Attributes:
        counts: number of samples by status.
        merged: objects that were made of all shards together.
    """

    counts: dict[str, int]
    merged: tuple[str, ...]


def _mean_statistics(total: Mapping[str, float]) -> MaskTotals:
    """Return the means of the sums ``STATISTICS``."""
    counts = {"area": "masks", "ignored": "masks", "left_out": "masks", "border": "objects", "likeness": "pairs"}
    return MaskTotals(**{name: total[name] / total[by] if total[by] else None for name, by in counts.items()})


@dataclass(frozen=True, kw_only=True)
class LabelProduct(DerivedProduct[MapReader, Input, Summary]):
    """Labels of an atlas, wherever their masks come from.

    Attributes:
        formats: names in ``LABEL_FORMATS``.
        context: what all formats get.
    """

    keeps_commits = True
    formats: tuple[str, ...]
    context: ExportContext

    def source_of(self, shard: str) -> MapReader:
        return self.source.of_shard(shard)

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

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> Summary:
        merged = dict.fromkeys(
            objects.put(path, data).path
            for name in LABEL_FORMATS
            if all(name in commit.items for commit in commits.values())
            for path, data in LABEL_FORMATS[name].merge(self.shards, objects.get, self.context)
        )
        records = [commits[shard] for shard in self.shards]
        counts = sum((Counter(record.counts) for record in records), Counter[str]())
        means = _mean_statistics({name: sum(record.statistics[name] for record in records) for name in STATISTICS})
        totals = LabelTotals(counts=dict(sorted(counts.items())), merged=tuple(merged), **vars(means))
        summary = self.summarize(totals, objects)
        content = {name: _to_json(value) for name, value in vars(summary).items()}
        objects.put(SUMMARY, (json.dumps(content, indent=1) + "\n").encode())
        return summary

    @abstractmethod
    def summarize(self, totals: LabelTotals, objects: ProductStore) -> Summary:
        """Return the summary, a dataclass with these numbers; and write what else is of all shards.

        Args:
            totals: the labels in numbers.
            objects: the output folder, which keeps records of what is written.
        """


def _to_json(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, Record) else value


def check_formats(names: Iterable[str], target: str) -> None:
    """Make sure that there are formats, and that they can hold masks of a target.

    Args:
        names: of formats.
        target: that masks are of.

    Raises:
        UsageError: there is no such format, or it files masks by class and the target has none.
    """
    for name in names:
        if name not in LABEL_FORMATS:
            hint = suggest(name, LABEL_FORMATS)
            raise UsageError(f"there is no label format {name!r}; there are {', '.join(LABEL_FORMATS)}{hint}")
    if is_text(target) and (by_class := [name for name in names if LABEL_FORMATS[name].needs_class]):
        others = ", ".join(name for name in LABEL_FORMATS if not LABEL_FORMATS[name].needs_class)
        raise UsageError(f"{by_class[0]}: files masks by class, and target {target} has none; take {others}")


def refuse_shared_keys(atlas: MapReader, formats: Iterable[str]) -> None:
    """Refuse keys of two shards where a format names files by key.

    Args:
        atlas: what is labelled.
        formats: names of formats.

    Raises:
        UsageError: a key occurs in two shards.
    """
    if not any(LABEL_FORMATS[name].names_files_by_key for name in formats):
        return
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


def write_labels(
    task: ShardTask[MapReader, Any], formats: tuple[str, ...], context: ExportContext, labels: Iterable[Label]
) -> ShardResult:
    """Write the labels of one shard: its table, and the objects of the formats that are missing.

    Args:
        task: the shard.
        formats: names of formats.
        context: what all formats get.
        labels: of all its samples, in the order of the shard.
    """
    objects, shard = task.objects, task.shard
    items = tuple(dict.fromkeys((*(name for name in task.previous_items if name in LABEL_FORMATS), *formats)))
    previous_objects = task.previous.objects if task.previous else ()
    missing = [name for name in items if task.previous is None or name not in task.previous.items]
    needs_heatmap = any(LABEL_FORMATS[name].needs_heatmap for name in missing)
    labels = [label if needs_heatmap else label.without_heatmap() for label in labels]
    written = [
        objects.put(path, data) for name in missing for path, data in LABEL_FORMATS[name].export(shard, labels, context)
    ]
    rows = [_row(label, context.policy_hash, task.content_hash) for label in labels]
    written.append(objects.put(f"labels/{shard}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=LABELS))))
    records = {record.path: record for record in (*previous_objects, *written)}
    return ShardResult(
        objects=tuple(records[path] for path in sorted(records)),
        counts=dict(sorted(Counter(str(label.status) for label in labels).items())),
        items=items,
        statistics=sum_statistics(labels),
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
