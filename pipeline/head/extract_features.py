"""Features of the images of shards, each computed once and kept in files."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.head.backbone import Backbone, cached_backbone
from pipeline.head.feature_table import LeftOut, ShardFeatures, is_made
from pipeline.read import DecodedSample, DecoderPool, PreprocessConfig, iter_batches
from pipeline.utils.atomic_write import write_atomically
from schemas.head import HeadReadout
from schemas.learned_head import LearnedHeadSpec
from schemas.samples import SampleStatus
from schemas.shard_record import ShardRecord

Task = tuple[ShardRecord, dict[str, Any]]
"""A shard, and all that decides its features."""
MapShards = Callable[[Callable[[Task], tuple[str, bytes]], Sequence[Task]], Iterable[tuple[str, bytes]]]

_ANY_LABEL = 10**9
"""Number of classes where no names limit it: labels have up to 9 digits."""
_ADVICE_ON_TARGETS = re.compile(r"(;|, or|,) plan with --.*")
"""What the readers advise for a run: a head is learned from one label of each image."""
_LARGEST = torch.finfo(torch.float16).max


def extract_features(
    spec: LearnedHeadSpec,
    backbone: Backbone,
    shards: Sequence[ShardRecord],
    folder: Path,
    device: str,
    map_shards: MapShards,
) -> list[Path]:
    """Compute the features of shards, and return their files.

    Each shard has a file, ``<name>.safetensors``, written when it is done; only shards without one are computed.

    Args:
        spec: of the head.
        backbone: the network.
        shards: with their sample counts.
        folder: of the files.
        device: as in ``load_backbone``.
        map_shards: calls a function, in processes or on a cluster, for each shard of a list, in any order.

    Raises:
        UsageError: the folder holds other features.
        CorruptShardError: a shard cannot be read.
    """
    pending: list[Task] = []
    files = [folder / f"{shard.name}.safetensors" for shard in shards]
    for shard, file in zip(shards, files, strict=True):
        identity = features_identity(spec, backbone, shard)
        if not is_made(file, identity):
            pending.append((shard, identity))
    for name, content in map_shards(partial(_extract_shard, spec, backbone.head.read_out, device), pending):
        write_atomically(str(folder / f"{name}.safetensors"), content)
    return files


def features_identity(spec: LearnedHeadSpec, backbone: Backbone, shard: ShardRecord) -> dict[str, Any]:
    """Return all that decides the features of a shard, as JSON has it.

    Args:
        spec: of the head.
        backbone: the network.
        shard: the shard.
    """
    preprocessing = {"input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"}
    content = backbone.record.model_dump(mode="json", include=preprocessing)
    content |= spec.model_dump(mode="json", include={"geometry", "exif", "batch_size", "key_separator", "image_key"})
    return content | {
        "backbone": backbone.head.backbone_sha256,
        "read_out": backbone.head.read_out,
        "classes": len(spec.classes),
        "samples": shard.samples,
        "shard": shard.source.model_dump(mode="json"),
    }


def _extract_shard(spec: LearnedHeadSpec, read_out: HeadReadout, device: str, task: Task) -> tuple[str, bytes]:
    """Return the name of a shard and the content of its file."""
    shard, identity = task
    backbone = cached_backbone(spec.model, read_out, device)
    frame = PreprocessConfig.for_model(backbone.record, spec.geometry, spec.exif)
    classes = len(spec.classes) or _ANY_LABEL
    kept: list[tuple[NDArray[np.float16], int, int]] = []
    left_out: list[LeftOut] = []
    with DecoderPool(4 if backbone.normalize.device.type == "cuda" else 0) as decoders:
        batches = iter_batches(shard, shard.samples, frame, spec.batch_size, classes, decoders, grouping=spec.grouping)
        for batch in batches:
            if all(sample.image is None for sample in batch.samples):
                features = np.zeros((len(batch.samples), 1), np.float32)
            else:
                features = backbone.features(batch.pixels).cpu().numpy()
            for sample, values in zip(batch.samples, features, strict=True):
                status, error = _fault(sample, values)
                if sample.image is None or sample.label is None or status != SampleStatus.OK:
                    left_out.append(LeftOut(shard.name, sample.ordinal, sample.key, status, error or ""))
                else:
                    image = int.from_bytes(bytes.fromhex(sample.image.sha256[:16]), "big", signed=True)
                    kept.append((values.astype(np.float16), sample.label, image))
    width = backbone.head.feature_width
    content = ShardFeatures(
        torch.from_numpy(np.stack([row[0] for row in kept]) if kept else np.zeros((0, width), np.float16)),
        torch.tensor([row[1] for row in kept], dtype=torch.int64),
        torch.tensor([row[2] for row in kept], dtype=torch.int64),
        tuple(left_out),
    )
    return shard.name, content.to_bytes(identity)


def _fault(sample: DecodedSample, features: NDArray[np.float32]) -> tuple[SampleStatus, str | None]:
    """Return status and fault of a sample with its features [in]."""
    if sample.status != SampleStatus.OK:
        return sample.status, _ADVICE_ON_TARGETS.sub("", sample.error or "")
    largest = np.abs(features).max()
    if not largest <= _LARGEST:
        return SampleStatus.NOT_FINITE, f"its largest feature is {largest:.4g}, which float16 cannot hold"
    return SampleStatus.OK, None
