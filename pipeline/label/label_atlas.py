"""Labels of a whole atlas: every shard by one policy, in every format that is asked for."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.label.calibrate import Tuning
from pipeline.label.formats import EXPORTERS
from pipeline.label.formats.base import Context, Exporter
from pipeline.label.label_shard import check, labels_of
from pipeline.label.mask import Label
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.store.derived import check_output_dir, content_hash, load_completed, read_commit, remove_stale
from pipeline.store.parquet import from_parquet, to_parquet
from schemas.base import sha256
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.labels import LABELS, LabelsRecord
from schemas.layout import commit_object
from schemas.policy import Policy
from schemas.text import suggest

ABOUT, SUMMARY = "policy.json", "summary.json"


def read_policy(path: str | Path) -> Policy:
    """A policy from a YAML file.

    Raises:
        UsageError: there is no such file, it is not YAML, or not a policy.
    """
    return Policy.from_yaml(path)


@dataclass(frozen=True)
class Labelled:
    """What labels came of an atlas; ``summary.json`` of their folder.

    Attributes:
        policy: that was applied, with its threshold.
        calibration: one sentence on how that was found; None where the policy has its own.
        counts: samples by status.
        area, ignored: of the labels with a mask, mean share of the picture; None without any.
        merged: objects that were made of all shards together.
    """

    policy: Policy
    calibration: str | None
    counts: dict[str, int]
    area: float | None
    ignored: float | None
    merged: tuple[str, ...]


def label(
    url: str,
    policy: Policy,
    formats: Iterable[str],
    out: str,
    tuning: Tuning | None = None,
    classes: Sequence[str] = (),
    address: str | None = None,
    allow_pipe: bool = False,
) -> Labelled:
    """Label every finished shard of an atlas. What is there already is not made again.

    Writes ``policy.json``; for each shard the objects of each format, ``labels/<shard>.parquet`` and
    ``commits/<shard>.json``; then what formats make of all shards together, and last ``summary.json``.

    Args:
        url: of the atlas.
        formats: names in ``EXPORTERS``.
        tuning: what a calibrated policy finds its threshold on.
        classes: their names, by index.
        address: of a Ray cluster, see ``parallel_map``.
        allow_pipe: see ``labels_of``.

    Raises:
        UsageError: no such format, the atlas has no such method or target, a policy that is to be calibrated on
            nothing, other labels are there, or a key that stands in two shards. Nothing is written then.
        CorruptShardError: pictures that a policy needs cannot be read.
    """
    atlas, names = Atlas.open(url), tuple(dict.fromkeys(formats))
    exporters = _choose(names)
    check(atlas, policy)
    objects = ObjectStore(out)
    if classes and len(classes) != atlas.run.model.classes:
        raise UsageError(f"{url}: has {atlas.run.model.classes} classes, not the {len(classes)} that are named")
    if any(exporter.by_key for exporter in exporters.values()):
        _refuse_shared_keys(atlas)
    if policy.calibrated and tuning is None:
        raise UsageError(f"policy {policy.name}: its cut is calibrated; say on what truth, with --tune FILE|DIR")
    if tuning is not None and not policy.calibrated:
        raise UsageError(f"policy {policy.name}: its cut is not calibrated, so there is nothing to tune")
    truth, tuned = tuning.about(atlas) if tuning else (None, None)
    about = LabelsRecord(
        policy=policy.model_dump(mode="json"),
        run=atlas.run.spec_hash,
        classes=sha256("\n".join(classes).encode()) if classes else None,
        truth=truth,
        tuned=tuned,
    )
    before = check_output_dir(objects, ABOUT, about, ("hash", "threshold", "calibration"))
    if tuning is not None:
        # Of an unfinished command the threshold stands, though by now there may be more pictures to tune on.
        threshold, said = before.threshold if before else None, before.calibration if before else None
        if threshold is None:
            threshold, said = tuning.threshold(atlas, policy)
        about = about.model_copy(update={"threshold": threshold, "calibration": said})
        policy = policy.at(threshold)
    about = about.model_copy(update={"hash": policy.digest()})
    context, settings_hash = Context(policy.digest(), tuple(classes)), about.digest()
    with Lease(objects):
        objects.put(ABOUT, about.to_bytes())
        remove_stale(objects, atlas)
        records = load_completed(objects, atlas, settings_hash, names)
        pending = [shard for shard in atlas.shard_names if shard not in records]
        if pending:
            _withdraw(objects)
        work = partial(_label_shard, atlas, policy, names, context, settings_hash, objects.url, allow_pipe)
        for record in parallel_map(work, pending, f"label by {policy.name}", address, gpu=policy.refine is not None):
            records[record.shard] = record
        shards, merged = atlas.shard_names, []
        for exporter in exporters.values():
            for name, data in exporter.merge(shards, objects.get, context):
                merged.append(objects.put(name, data).path)
        labelled = _summary(policy, about.calibration, [records[shard] for shard in shards], merged)
        objects.put(SUMMARY, (json.dumps(_plain(labelled), indent=1) + "\n").encode())
        objects.sweep()
    return labelled


def _withdraw(objects: ObjectStore) -> None:
    """What was made of all shards together counts no more once one of them is made anew."""
    if objects.exists(SUMMARY):
        for name in json.loads(objects.get(SUMMARY))["merged"]:
            objects.delete(name)
        objects.delete(SUMMARY)


def _choose(names: Iterable[str]) -> dict[str, Exporter]:
    for name in names:
        if name not in EXPORTERS:
            hint = suggest(name, EXPORTERS)
            raise UsageError(f"there is no label format {name!r}; there are {', '.join(EXPORTERS)}{hint}")
    return {name: EXPORTERS[name] for name in names}


def _refuse_shared_keys(atlas: Atlas) -> None:
    table = atlas.samples(["shard", "key", "status"])
    status = table["status"].cast(pa.string())
    table = table.filter(pc.invert(pc.is_in(status, pa.array(["duplicate_key", "unsafe_key"]))))
    table = table.set_column(1, "key", pc.replace_substring_regex(table["key"], r"^\./", ""))
    counts = pc.value_counts(table["key"])
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(several):
        key = several[0].as_py()
        shards = table.filter(pc.equal(table["key"], key))["shard"].to_pylist()
        raise UsageError(
            f"{key}: is a key in {shards[0]} and in {shards[1]}, and a format that names files by key would write one over "
            f"the other; take png or parquet"
        )


def _label_shard(
    atlas: Atlas,
    policy: Policy,
    formats: tuple[str, ...],
    context: Context,
    settings_hash: str,
    out: str,
    allow_pipe: bool,
    shard: str,
) -> DerivedCommit:
    objects = ObjectStore(out)
    above = content_hash(atlas.record(shard))  # before the maps are read: if they change meanwhile, this is made again
    before = read_commit(objects, shard)
    known = tuple(each for each in before.items if each in EXPORTERS) if before else ()
    parts = tuple(dict.fromkeys((*known, *formats)))
    if before is not None and (before.parent, before.settings_hash) != (above, settings_hash):
        for each in before.objects:
            objects.delete(each.path)
        before, known = None, ()
    missing = tuple(each for each in parts if each not in known) or parts  # or an object of them is gone
    whole = any(EXPORTERS[each].needs_heat for each in missing)
    labels = [each if whole else each.light() for each in labels_of(atlas, shard, policy, allow_pipe)]
    written = [
        objects.put(name, data) for each in missing for name, data in EXPORTERS[each].export(shard, labels, context)
    ]
    rows = [_row(each, context.policy_hash, above) for each in labels]
    written.append(objects.put(f"labels/{shard}.parquet", to_parquet(pa.Table.from_pylist(rows, schema=LABELS))))
    names = {each.path for each in written}
    kept = () if before is None else tuple(each for each in before.objects if each.path not in names)
    masks = [each for each in labels if each.mask_rle is not None]
    record = DerivedCommit(
        shard=shard,
        parent=above,
        settings_hash=settings_hash,
        items=parts,
        counts=dict(sorted(Counter(str(each.status) for each in labels).items())),
        statistics={name: float(sum(getattr(each, name) for each in masks)) for name in ("area", "ignored")}
        | {"masks": float(len(masks))},
        objects=tuple(sorted((*kept, *written), key=lambda each: each.path)),
    )
    objects.put(commit_object(shard), record.to_bytes())
    return record


def _row(label: Label, policy_hash: str, above: str) -> dict[str, Any]:
    return {
        "row": label.sample["row"],
        "key": label.sample["key"],
        "status": label.status,
        "label": label.class_index,
        "width": label.sample["width"],
        "height": label.sample["height"],
        "threshold": label.threshold,
        "background": label.background,
        "area": label.area,
        "ignored": label.ignored,
        "components": None if label.boxes is None else len(label.boxes),
        "boxes": None if label.boxes is None else [list(box) for box in label.boxes],
        "probability": label.probability,
        "agreement": label.agreement,
        "image_sha256": label.sample["image_sha256"],
        "policy": policy_hash,
        "parent": above,
    }


def _summary(
    policy: Policy, calibration: str | None, records: Sequence[DerivedCommit], merged: Sequence[str]
) -> Labelled:
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.counts)
    total = {name: sum(record.statistics[name] for record in records) for name in ("area", "ignored", "masks")}
    area, ignored = (total[name] / total["masks"] if total["masks"] else None for name in ("area", "ignored"))
    return Labelled(policy, calibration, dict(sorted(counts.items())), area, ignored, tuple(merged))


def _plain(labelled: Labelled) -> dict[str, Any]:
    return {**vars(labelled), "policy": labelled.policy.model_dump(mode="json")}


def read_labels(out: str) -> pa.Table:
    """The label table of all shards in a folder of labels, in the order of their names; ``schemas.labels.LABELS``."""
    objects = ObjectStore(out)
    return pa.concat_tables(list(_tables(objects)))


def _tables(objects: ObjectStore) -> Iterator[pa.Table]:
    for name in objects.list("labels"):
        yield from_parquet(objects.get(f"labels/{name}"))
