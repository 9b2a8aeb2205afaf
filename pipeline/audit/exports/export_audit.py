"""An audit in the format of another program, shard by shard."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audit.exports import EXPORTERS
from pipeline.audit.exports.base import AtlasContext, ShardData
from pipeline.audit.map_statistics import compute_coverage
from pipeline.audit.map_tables import split_truth
from pipeline.image.score_map import window
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas, AtlasShard, Lease, ObjectStore
from pipeline.store.derived import check_output_dir, content_hash, load_completed, remove_stale
from pipeline.store.images import pictures as pictures_of
from pipeline.truth import TruthSet, read_truth
from pipeline.utils.io import refuse_commands
from schemas.audit_records import ExportRecord
from schemas.commits import DerivedCommit, ObjectRecord
from schemas.errors import UsageError
from schemas.layout import ABOUT, Flag, commit_object
from schemas.run import TargetKind
from schemas.samples import CLASS_COLUMNS, SampleStatus
from schemas.text import suggest

_BATCH = 32
"""Pictures that are in memory together."""


def export_audit(
    url: str,
    out: str,
    kind: str,
    target: TargetKind = "label",
    methods: Sequence[str] = (),
    truth: str | None = None,
    pictures: bool = True,
    allow_pipe: bool = False,
    address: str | None = None,
    classes: Sequence[str] = (),
) -> str:
    """Write an atlas and its audit as another program reads them. What is done already is not done again.

    Writes, in a folder of the name of the kind: ``about.json``; the files of each shard and ``commits/<shard>.json``; then
    those that are made of all shards together.

    Args:
        url: of the atlas.
        out: folder or URL of the audit, with its tables.
        kind: name in ``EXPORTERS``.
        target, methods: whose maps; no methods are all of the atlas.
        truth: a file or folder, as ``read_truth`` takes it, for kinds that have masks.
        pictures: with the pixels that the network saw, which are read from the shards.
        allow_pipe: shards may be read from the shell commands that the atlas names.
        address: of a Ray cluster, see ``parallel_map``.
        classes: their names, by index.

    Returns:
        URL of the folder that was written.

    Raises:
        UsageError: no such kind, method or target, no sample with maps, truth that cannot be used, a package is not
            installed, the audit lacks a table, or the folder holds an export of something else.
        CorruptShardError: a shard cannot be read, or holds other pictures than the atlas has maps of.
    """
    if kind not in EXPORTERS:
        raise UsageError(f"there is no export to {kind!r}; there are {', '.join(EXPORTERS)}{suggest(kind, EXPORTERS)}")
    atlas, known = Atlas.open(url), read_truth(truth) if truth else None
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    atlas.require(target, chosen)
    if classes and len(classes) != atlas.run.model.classes:
        raise UsageError(f"{url}: has {atlas.run.model.classes} classes, not the {len(classes)} that are named")
    if pictures:
        refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    about = ExportRecord(
        kind=kind,
        run=atlas.run.spec_hash,
        target=target,
        methods=chosen,
        truth=known.digest if known is not None else None,
        pixels=pictures,
        classes=tuple(classes),
    )
    audit, objects = ObjectStore(out), ObjectStore(f"{out.rstrip('/')}/{kind}")
    samples = atlas.samples(["row", "shard", "status", "label", "prediction", "key"])
    samples = samples.filter(pc.equal(samples["status"].cast(pa.string()), SampleStatus.OK))
    if not len(samples):
        raise UsageError(f"{url}: has no sample with maps, so there is nothing to export")
    EXPORTERS[kind].check(about, audit)
    check_output_dir(objects, ABOUT, about)
    with Lease(objects):
        objects.put(ABOUT, about.to_bytes())
        remove_stale(objects, atlas)
        records = load_completed(objects, atlas, about.digest())
        shards = [shard for shard in atlas.shard_names if shard not in records]
        pending = list(zip(shards, split_truth(atlas, shards, known), strict=True))
        for _ in parallel_map(partial(_of_shard, atlas, about, objects.url), pending, f"export to {kind}", address):
            continue
        with tempfile.TemporaryDirectory(prefix="vitatlas-") as folder:
            _put(
                objects,
                EXPORTERS[kind].of_all(AtlasContext(atlas.run, about, samples, audit), Path(folder)),
                Path(folder),
            )
        objects.sweep()
    return objects.url


def _of_shard(atlas: Atlas, about: ExportRecord, out: str, item: tuple[str, TruthSet | None]) -> DerivedCommit:
    shard, truth = item
    objects, kept = ObjectStore(out), atlas.shard(shard)
    objects.delete(commit_object(shard))
    part = _part(atlas, kept, about, truth)
    written: tuple[ObjectRecord, ...] = ()
    if len(part):
        with tempfile.TemporaryDirectory(prefix="vitatlas-") as folder:
            names = EXPORTERS[about.kind].of_shard(part, atlas.run, Path(folder))
            written = _put(objects, names, Path(folder))
    record = DerivedCommit(
        shard=shard,
        parent=content_hash(kept.commit),
        settings_hash=about.digest(),
        items=(),
        counts={"images": len(part)},
        objects=written,
    )
    objects.put(commit_object(shard), record.to_bytes())
    return record


def _put(objects: ObjectStore, names: Iterable[str], folder: Path) -> tuple[ObjectRecord, ...]:
    """Put files, each as soon as it is there, so that the next has its place on this machine's disk."""
    records = []
    for name in names:
        records.append(objects.put_file(name, folder / name))
        (folder / name).unlink()
    return tuple(records)


def _part(atlas: Atlas, shard: AtlasShard, about: ExportRecord, truth: TruthSet | None) -> ShardData:
    samples = shard.samples.filter(pa.array(shard.good))
    maps = {}
    for method in about.methods:
        says = shard.flags(method, about.target)[shard.good] == Flag.OK
        maps[method] = np.where(says[:, None, None], shard.maps(method, about.target)[shard.good], np.float32(0))
    return ShardData(
        shard.commit.shard,
        samples,
        samples[CLASS_COLUMNS[about.target]].to_numpy().astype(np.int64),
        maps,
        _pixels(atlas, shard) if about.pixels else None,
        None if truth is None else _masks(samples, truth, atlas.run.model.input_size),
    )


def _pixels(atlas: Atlas, shard: AtlasShard) -> Iterator[NDArray[np.uint8]]:
    """Of the samples that have maps."""
    for _, pixels in pictures_of(atlas.run, shard, np.flatnonzero(shard.good).tolist(), _BATCH):
        yield np.stack(pixels)


def _masks(samples: pa.Table, truth: TruthSet, size: tuple[int, int]) -> Iterator[NDArray[np.bool_] | None]:
    """Pixels of the network's input more than half of which is object."""
    for sample in samples.to_pylist():
        known, covered = truth.find(sample["key"]), None
        if known is not None and known.is_annotated:
            covered = compute_coverage(known, sample["width"], sample["height"], window(sample, size), size)
        yield None if covered is None else covered > 0.5
