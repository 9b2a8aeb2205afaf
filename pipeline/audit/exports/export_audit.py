"""Export an atlas and its audit to other programs, shard by shard."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.audit.exports import EXPORTERS
from pipeline.audit.exports.base import AtlasContext, ShardData
from pipeline.audit.map_statistics import compute_coverage
from pipeline.audit.map_tables import split_truth_by_shard
from pipeline.image.score_map import visible_window
from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions
from pipeline.store import MapReader, ObjectStore, ShardMaps
from pipeline.store.derived import ProductStore
from pipeline.store.images import read_images
from pipeline.truth import TruthSet
from pipeline.utils.io import refuse_commands
from schemas.audit_records import ExportSpec
from schemas.commits import DerivedCommit, ObjectRecord
from schemas.errors import UsageError
from schemas.run_record import RunRecord
from schemas.samples import class_columns, class_ids
from schemas.text import suggest

_BATCH_SIZE = 32
"""Number of images in memory."""


def export_audit(
    atlas: MapReader,
    out: str,
    kind: str,
    target: str = "label",
    methods: Sequence[str] = (),
    truth: TruthSet | None = None,
    pixels: bool = True,
    classes: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
) -> str:
    """Write an atlas and its audit in the format of another program. Shards that are done are not exported again.

    Writes, in a folder with the name of the kind: ``about.json``; the files of each shard and ``commits/<shard>.json``;
    then the files of the whole atlas.

    Args:
        atlas: the atlas with the maps.
        out: folder or URL of the audit, with its tables.
        kind: name in ``EXPORTERS``.
        target: target kind of the maps.
        methods: names of methods; empty is all.
        truth: truth of the images, for kinds that have masks.
        pixels: include the inputs of the network, which are read from the shards.
        classes: names of the classes, by class id; by default those of the head file.
        options: where it is computed; may shell commands be run to read images.

    Returns:
        URL of the folder that was written.

    Raises:
        UsageError: no such kind, method or target, no sample with maps, truth that cannot be used, a package is not
            installed, the audit lacks a table, or the folder holds an export of something else.
        CorruptShardError: a shard cannot be read, or holds other images than the atlas has maps of.
    """
    if kind not in EXPORTERS:
        raise UsageError(f"there is no export to {kind!r}; there are {', '.join(EXPORTERS)}{suggest(kind, EXPORTERS)}")
    names, url = atlas.select_methods(target, methods), atlas.url
    target, classes = atlas.find_class_target(target), atlas.class_names(classes)
    if pixels:
        refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    about = ExportSpec(
        kind=kind,
        run=atlas.run.run_hash,
        target=target,
        methods=names,
        truth=truth.digest if truth is not None else None,
        pixels=pixels,
        classes=tuple(classes),
    )
    columns = ["row", "shard", "label", "prediction", "key"]
    samples = atlas.samples_with_maps(list(dict.fromkeys([*columns, *class_columns(target)])), target)
    if not len(samples):
        raise UsageError(f"{url}: has no sample with maps, so there is nothing to export")
    audit, objects = ObjectStore(out), ObjectStore(f"{out.rstrip('/')}/{kind}")
    EXPORTERS[kind].validate(about, audit)
    title, function = f"export to {kind}", partial(_export_shard, about)
    context = AtlasContext(atlas.run, about, samples, audit)
    export = _Export(title, function, atlas, objects, about=about, methods=names, context=context, truth=truth)
    derive(export, options)
    return objects.url


@dataclass(frozen=True, kw_only=True)
class _Export(DerivedProduct[MapReader, TruthSet | None, None]):
    about: ExportSpec

    context: AtlasContext
    truth: TruthSet | None

    def inputs(self, shards: Sequence[str]) -> list[TruthSet | None]:
        return split_truth_by_shard(self.source, shards, self.truth, self.about.target)

    def remove_summary(self) -> None:
        for name in EXPORTERS[self.about.kind].atlas_files(self.about):
            self.objects.delete(name)

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> None:
        _upload(objects, partial(EXPORTERS[self.about.kind].export_all, self.context))


def _export_shard(about: ExportSpec, task: ShardTask[MapReader, TruthSet | None]) -> ShardResult:
    data = _read_shard(task.source, task.source.shard(task.shard), about, task.data)
    written: tuple[ObjectRecord, ...] = ()
    if len(data):
        written = _upload(task.objects, partial(EXPORTERS[about.kind].export_shard, data, task.source.run))
    return ShardResult(written, {"images": len(data)})


def _upload(objects: ObjectStore, export: Callable[[Path], Iterable[str]]) -> tuple[ObjectRecord, ...]:
    """Upload each file as soon as it exists and remove it, so that the local disk holds one at a time."""
    records = []
    with tempfile.TemporaryDirectory(prefix="vitatlas-") as folder:
        for name in export(Path(folder)):
            path = Path(folder, name)
            records.append(objects.put_file(name, path))
            path.unlink()
    return tuple(records)


def _read_shard(atlas: MapReader, shard: ShardMaps, about: ExportSpec, truth: TruthSet | None) -> ShardData:
    has_maps = shard.has_maps_of(about.target)
    samples = shard.samples.filter(pa.array(has_maps))
    maps = {}
    for method in about.methods:
        valid = shard.has_values(method, about.target)[has_maps]
        maps[method] = np.where(valid[:, None, None], shard.maps(method, about.target)[has_maps], np.float32(0))
    return ShardData(
        shard.commit.shard,
        samples,
        class_ids(samples, about.target, atlas.run.spec.target_names).to_numpy().astype(np.int64),
        maps,
        _pixels(atlas, shard, np.flatnonzero(has_maps).tolist()) if about.pixels else None,
        None if truth is None else _masks(samples, truth, atlas.run),
    )


def _pixels(atlas: MapReader, shard: ShardMaps, ordinals: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the input of the network in batches, for some samples."""
    for _, pixels in read_images(shard, ordinals, _BATCH_SIZE):
        yield np.stack(pixels)


def _masks(samples: pa.Table, truth: TruthSet, run: RunRecord) -> Iterator[NDArray[np.bool_] | None]:
    """Yield masks of the pixels of the network's input that objects cover by more than half."""
    size = run.model.input_size
    for sample in samples.to_pylist():
        image_truth, covered = truth.find_annotated(sample["key"]), None
        if image_truth is not None:
            image_truth = image_truth.for_sample(sample, run.spec.exif)
            covered = compute_coverage(image_truth, visible_window(sample, size), size)
        yield None if covered is None else covered > 0.5
