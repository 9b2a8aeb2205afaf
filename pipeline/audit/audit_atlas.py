"""The whole audit of an atlas in one folder, which anybody can look at, and check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import pyarrow as pa

from pipeline.audit.completeness import build_completeness_table
from pipeline.audit.exports import EXPORTERS
from pipeline.audit.exports.export_audit import export_audit
from pipeline.audit.map_tables import MapTables, write_map_tables
from pipeline.audit.publication.croissant import CROISSANT_NAME, build_croissant
from pipeline.audit.publication.dataset_card import CARD_NAME, render_dataset_card
from pipeline.audit.publication.environment import collect_environment
from pipeline.audit.publication.lineage import build_lineage_table, find_lineage_faults, find_products
from pipeline.audit.publication.manifest import write_manifest
from pipeline.audit.report import write_report
from pipeline.audit.reproducibility import build_reproducibility_table
from pipeline.audit.shortcuts import find_shortcuts, rank_classes
from pipeline.run.execution import ComputeOptions
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.store.parquet import to_parquet
from pipeline.truth import TruthSet
from pipeline.utils.io import refuse_commands
from schemas.audit_records import DEFAULT_PUBLICATION, ManifestRecord, PublicationRecord
from schemas.errors import UsageError
from schemas.layout import ABOUT, AUDIT, LEASE
from schemas.metrics import MetricSuite
from schemas.run import TargetKind
from schemas.text import suggest


@dataclass(frozen=True)
class AuditOptions:
    """How much of an audit is made, beside the tables of all maps.

    Attributes:
        images, sanity: pictures that are drawn to measure faithfulness, and for sanity checks; 0 leaves them out.
        recompute: pictures whose maps are computed again; 0 leaves that out.
        pictures: small copies of the pictures go into the report, and the network's inputs into exports.
        exports: names in ``EXPORTERS``.
    """

    images: int = 1000
    sanity: int = 100
    recompute: int = 256
    pictures: bool = True
    exports: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditResult:
    """What came of it.

    Attributes:
        manifest: of the folder; its root is to be told elsewhere too.
        suspicious: ``schemas.audit_tables.SUSPICIOUS_CLASSES``.
    """

    manifest: ManifestRecord
    suspicious: pa.Table


def audit_atlas(
    atlas: Atlas,
    out: str | None = None,
    target: TargetKind = "label",
    methods: Sequence[str] = (),
    truth: TruthSet | None = None,
    names: Sequence[str] = (),
    extent: AuditOptions = AuditOptions(),
    further: Sequence[str] = (),
    publication: PublicationRecord = DEFAULT_PUBLICATION,
    options: ComputeOptions = ComputeOptions(),
    say: Callable[[str], None] = lambda line: None,
) -> AuditResult:
    """Audit an atlas. What is measured or made shard by shard is not done again.

    Writes ``faithfulness/`` and ``sanity/`` (``pipeline.metrics``); what ``tables`` does; ``shortcuts.parquet``,
    ``suspicious.parquet``, ``clusters.parquet`` and ``members.parquet``; ``lineage.parquet``, ``completeness.parquet``,
    ``reproducibility.parquet`` and ``environment.json``; exports; ``report/``; a card ``README.md`` and ``croissant.json``;
    and last ``manifest.json``, without which there is no audit. Columns are in ``schemas.audit_tables``.

    Args:
        atlas: the atlas with the maps.
        out: folder or URL; None is ``audit/<target>`` in the atlas.
        target: target kind of the maps.
        methods: names of methods; empty is all.
        truth: truth of the images; see ``write_map_tables``.
        names: of the classes, by index.
        extent: how much is made.
        further: what was made of the atlas elsewhere, see ``lineage``.
        publication: what only the publisher knows.
        options: where and on which device it is computed; may shell commands be run to read images.
        say: told what is done, and where the chain from pictures to labels, scores and tables is broken.

    Raises:
        UsageError: not all classes are named; see also ``tables``, ``lineage`` and ``export``.
        CorruptShardError: pictures that are to be seen again cannot be read, or are others now.
        SpecMismatchError: the network is another now.
    """
    from pipeline.metrics.evaluate_atlas import evaluate_metrics  # the network is needed only here

    url = atlas.objects.url
    out = (out or f"{url.rstrip('/')}/{AUDIT}/{target}").rstrip("/")
    for name in extent.exports:
        if name not in EXPORTERS:
            raise UsageError(f"there is no export {name!r}; there are {', '.join(EXPORTERS)}{suggest(name, EXPORTERS)}")
        EXPORTERS[name].require_packages()
    objects = ObjectStore(out)
    MapTables(atlas, out, target, methods, truth).check_output()
    _refuse_others(objects, extent)
    find_products(atlas, further, None)
    if names and len(names) != atlas.run.model.classes:
        raise UsageError(f"{url}: has {atlas.run.model.classes} classes, not the {len(names)} that are named")
    if extent.images or extent.sanity or extent.recompute or extent.pictures:
        refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    kinds: dict[MetricSuite, int] = {"faithfulness": extent.images, "sanity": extent.sanity}
    for kind, number in kinds.items():
        if number:
            evaluate_metrics(atlas, f"{out}/{kind}", kind, methods, number, options=options, log=say)
    say("tables: every map in numbers, every two methods compared")
    write_map_tables(atlas, out, target, methods, truth, options)
    for fault in find_lineage_faults(atlas, further, out):
        say(fault)
    say("shortcuts: clusters of the maps of each class")
    searched = find_shortcuts(atlas, target, methods, options)
    found: dict[str, pa.Table] = {
        "suspicious": rank_classes(searched.classes),
        "shortcuts": searched.classes,
        "clusters": searched.clusters,
        "members": searched.members,
        "completeness": build_completeness_table(atlas),
        "lineage": build_lineage_table(atlas, further, out),
    }
    if extent.recompute:
        found["reproducibility"] = build_reproducibility_table(atlas, extent.recompute, methods, 0, options, say)
    with Lease(objects):
        for name, table in found.items():
            objects.put(f"{name}.parquet", to_parquet(table))
        objects.put("environment.json", collect_environment(atlas).to_bytes())
    for name in extent.exports:
        say(f"export to {name}")
        export_audit(atlas, out, name, target, methods, truth, extent.pictures, names, options)
    write_report(atlas, out, target, names, extent.pictures, options=options, say=say)
    with Lease(objects):
        objects.put(CARD_NAME, render_dataset_card(atlas, out, publication, extent.pictures))
        objects.put(CROISSANT_NAME, build_croissant(atlas, out, publication))
    return AuditResult(write_manifest(out), found["suspicious"])


def _refuse_others(objects: ObjectStore, extent: AuditOptions) -> None:
    """Nothing is published that this audit does not make.

    Raises:
        UsageError: the folder holds something else, or an export that is not made again.
    """
    for kind in EXPORTERS:
        if kind not in extent.exports and objects.exists(f"{kind}/{ABOUT}"):
            raise UsageError(f"{objects.url}: holds an export to {kind}; say --export {kind} as well, or remove it")
    if not objects.exists(ABOUT):
        began = (*get_args(MetricSuite), LEASE)  # what a call that was stopped early may have left
        for name, _ in objects.list_all():
            if name.partition("/")[0] not in began:
                raise UsageError(f"{objects.url}: holds {name}, which is of no audit; name an empty folder with --out")
