"""Heads that are learned from the features of labelled images."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.explain.head import Head
from pipeline.explain.head_modules import ZeroShotHead
from pipeline.explain.load import absolute_model_spec
from pipeline.head.backbone import Backbone, load_backbone
from pipeline.head.evaluate_head import evaluate_head
from pipeline.head.extract_features import MapShards, extract_features, features_identity
from pipeline.head.feature_table import FeatureTable
from pipeline.head.probe import train_probe
from pipeline.head.prototypes import choose_scale, class_means
from pipeline.head.splits import Split, few_images, hold_out
from pipeline.read import count_disjoint, resolve_pattern
from pipeline.store.parquet import to_parquet
from pipeline.utils.atomic_write import write_atomically
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.learned_head import LEFT_OUT, LearnedHeadRecord, LearnedHeadSpec
from schemas.shard_record import ShardRecord

Shards = tuple[ShardRecord, ...]


def learn_head(spec: LearnedHeadSpec, device: str = "auto", map_shards: MapShards = map) -> LearnedHeadRecord:
    """Learn a head from labelled images, evaluate it on held-out ones, and write its file.

    Next to the file are, while the command runs, ``<out>.features`` with a file for each shard that is done, and
    ``<out>.checkpoint``; from both the same call goes on. ``<out>.left-out.parquet`` lists the samples that have no
    usable image or label, if there are any.

    Args:
        spec: what to learn.
        device: of the features and of the fits, as in ``load_backbone``.
        map_shards: see ``extract_features``; ``map`` computes one shard after the other in this process.

    Returns:
        How the head was made. A head that is there already is not made again.

    Raises:
        UsageError: backbone, shards, labels or output are invalid, or do not match.
        CorruptShardError: a shard cannot be read.
        RunFailedError: a process died.
    """
    if not Path(spec.out).absolute().parent.is_dir():
        raise UsageError(f"{spec.out}: there is no folder {Path(spec.out).parent}; create it first")
    spec = _with_absolute_paths(spec)
    shards, held_out = count_disjoint(spec.shards, spec.held_out, spec.grouping)
    backbone = load_backbone(spec.model, spec.read_out, device)
    identity = _identity(spec, backbone, shards, held_out)
    if Path(spec.out).exists():
        return _existing(spec.out, identity)
    folder = Path(spec.features or f"{spec.out}.features")
    files = extract_features(spec, backbone, shards, folder / "training", device, map_shards)
    files += extract_features(spec, backbone, held_out, folder / "held-out", device, map_shards)
    table = FeatureTable.open(files)
    _write_left_out(table, Path(f"{spec.out}.left-out.parquet"))
    record = _learn(spec, backbone, table, shards, held_out, identity)
    Path(f"{spec.out}.checkpoint").unlink(missing_ok=True)
    if spec.features is None:
        shutil.rmtree(folder)
    return record


def _with_absolute_paths(spec: LearnedHeadSpec) -> LearnedHeadSpec:
    """Return the spec with paths that are valid in every process and from every folder."""
    return spec.model_copy(
        update={
            "model": absolute_model_spec(spec.model),
            "shards": tuple(map(resolve_pattern, spec.shards)),
            "held_out": tuple(map(resolve_pattern, spec.held_out)),
            "out": os.path.abspath(spec.out),
            "features": os.path.abspath(spec.features) if spec.features else None,
        }
    )


def _identity(spec: LearnedHeadSpec, backbone: Backbone, shards: Shards, held_out: Shards) -> str:
    """Return the hash of all that decides a head."""
    features = [[features_identity(spec, backbone, shard) for shard in group] for group in (shards, held_out)]
    settings = spec.model_dump(mode="json", include={"command", "classes", "l2", "held_out_share", "images"})
    return sha256(json.dumps([settings, features], sort_keys=True).encode())


def _existing(out: str, identity: str) -> LearnedHeadRecord:
    """Return how a head that exists was made, if the same command would make it again."""
    try:
        record = LearnedHeadRecord.read(Head.load(out).record.provenance.encode(), out)
    except UsageError:
        record = None
    if record is None or record.identity != identity:
        raise UsageError(f"{out}: exists, and is something else; choose another --out, or remove it")
    return record


def _learn(
    spec: LearnedHeadSpec, backbone: Backbone, table: FeatureTable, shards: Shards, held_out: Shards, identity: str
) -> LearnedHeadRecord:
    """Learn a head from features, evaluate it, and write it."""
    names = _class_names(spec, table)
    own = np.arange(len(table)) < table.starts[len(shards)]  # rows of the shards that are not held out
    split = _split(spec, table, own)
    training, evaluation = table.rows(split.training), table.rows(split.held_out)
    counts = np.bincount(training.labels, minlength=len(names))
    record = backbone.head.model_copy(update={"classes": names})
    device = backbone.normalize.device
    content: dict[str, Any] = {
        "command": spec.command,
        "identity": identity,
        "model": PurePath(spec.model.name).name,  # of a local model without the path to it
        "geometry": spec.geometry,
        "shards": tuple(PurePath(shard.url).name for shard in shards),
        "held_out": tuple(PurePath(shard.url).name for shard in held_out),
        "images": len(training),
        "held_out_images": len(evaluation),
        "repeated": split.repeated,
        "left_out": dict(sorted(Counter(row.status for row in table.left_out).items())),
        "absent_classes": int((counts == 0).sum()),
    }
    if spec.command == "head probe":
        checkpoint = Path(f"{spec.out}.checkpoint")
        probe = train_probe(training, evaluation, record, spec.l2, device, checkpoint, identity)
        weight, bias = probe.best
        tensors = {"weight": weight, "bias": bias}
        content |= {"setting": probe.chosen.l2, "fits": probe.fits, "metrics": probe.chosen.held_out}
    else:
        if not counts.all():
            name = names[int(counts.argmin())]
            raise UsageError(f"class {name!r} has no usable image, so it has no prototype; add images of it")
        text = class_means(training, len(names), device)
        scale = choose_scale(text, evaluation, device)
        tensors = {"text": text.float(), "logit_scale": torch.tensor(scale)}
        record = record.model_copy(update={"kind": "zero_shot", "normalise": "l2"})
        head = ZeroShotHead(nn.Identity(), tensors, record)
        content |= {"setting": scale, "metrics": evaluate_head(head, evaluation, device)}
        content["small_classes"] = int((counts < spec.images).sum())
    learned = LearnedHeadRecord(**content)
    Head(record.model_copy(update={"provenance": learned.to_bytes().decode()}), tensors).save(spec.out)
    return learned


def _split(spec: LearnedHeadSpec, table: FeatureTable, own: NDArray[np.bool_]) -> Split:
    if spec.command == "head prototypes":
        training = few_images(table, own, spec.images)
        return Split.of(table, training, ~own if spec.held_out else own & ~training)
    held_out = ~own if spec.held_out else hold_out(table, spec.held_out_share)
    return Split.of(table, ~held_out, held_out)


def _class_names(spec: LearnedHeadSpec, table: FeatureTable) -> tuple[str, ...]:
    """Return the names of the classes: those given, else the class ids from 0 to the largest label, without gaps."""
    labels = np.unique(table.labels)
    if not len(labels):
        first = next((f"; {row.key} of {row.shard}: {row.error}" for row in table.left_out), "")
        raise UsageError(f"not one of {len(table.left_out)} samples has a usable image and label{first}")
    names = spec.classes or tuple(map(str, labels))
    if not spec.classes and labels[-1] >= len(labels):
        missing = int(np.flatnonzero(labels != np.arange(len(labels)))[0])
        raise UsageError(
            f"no image has the label {missing}, but there is {labels[-1]}; name all classes, in the order of their "
            "labels from 0, by --classes FILE"
        )
    if len(names) < 2:
        raise UsageError("there is one class, and a head tells classes apart; add images of other classes")
    return names


def _write_left_out(table: FeatureTable, path: Path) -> None:
    """Write the table of the samples without features, if there are any."""
    path.unlink(missing_ok=True)
    if table.left_out:
        rows = pa.Table.from_pylist([vars(row) for row in table.left_out], LEFT_OUT)
        write_atomically(str(path), to_parquet(rows))
