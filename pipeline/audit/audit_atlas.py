"""Audit an atlas: tables, report, exports, dataset card and manifest in one folder that anybody can verify."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import pyarrow as pa

from pipeline.audit.completeness import build_completeness_table
from pipeline.audit.exports import EXPORTERS
from pipeline.audit.exports.export_audit import export_audit
from pipeline.audit.map_tables import open_map_tables, write_map_tables
from pipeline.audit.publication.croissant import CROISSANT_NAME, build_croissant
from pipeline.audit.publication.dataset_card import CARD_NAME, render_dataset_card
from pipeline.audit.publication.environment import collect_environment
from pipeline.audit.publication.lineage import build_lineage_table, find_lineage_faults, find_products
from pipeline.audit.publication.manifest import write_manifest
from pipeline.audit.report import write_report
from pipeline.audit.reproducibility import COSTS, build_reproducibility_table
from pipeline.audit.shortcuts import find_shortcuts, rank_classes
from pipeline.run.execution import ComputeOptions
from pipeline.store import Lease, MapReader, ObjectStore
from pipeline.store.parquet import to_parquet
from pipeline.truth import TruthSet
from pipeline.truth.match_atlas import match_truth
from pipeline.utils.io import refuse_commands
from pipeline.utils.progress import describe_shares
from schemas.audit_records import DEFAULT_PUBLICATION, ManifestRecord, PublicationRecord
from schemas.audit_samples import FAITHFULNESS_IMAGES, RECOMPUTED_IMAGES, SANITY_IMAGES
from schemas.errors import UsageError
from schemas.layout import ABOUT, AUDIT, LEASE
from schemas.metrics import MAP_FORWARDS, MetricSuite
from schemas.samples import SampleStatus
from schemas.targets import folder_name
from schemas.text import suggest


@dataclass(frozen=True)
class AuditOptions:
    """Parts of an audit beside the tables of all maps.

    Attributes:
        faithfulness_images: number of images sampled for faithfulness metrics; 0 leaves them out.
        sanity_images: number of images sampled for sanity checks; 0 leaves them out.
        recomputed_images: number of images whose maps are recomputed; 0 leaves that out.
        include_images: put thumbnails into the report, and inputs of the network into exports.
        exports: names in ``EXPORTERS``.
    """

    faithfulness_images: int = FAITHFULNESS_IMAGES
    sanity_images: int = SANITY_IMAGES
    recomputed_images: int = RECOMPUTED_IMAGES
    include_images: bool = True
    exports: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditResult:
    """Result of an audit.

    Attributes:
        manifest: manifest of the folder; publish its root elsewhere, too.
        suspicious: ``schemas.audit_tables.SUSPICIOUS_CLASSES``.
    """

    manifest: ManifestRecord
    suspicious: pa.Table


def audit_atlas(
    atlas: MapReader,
    out: str | None = None,
    target: str = "label",
    methods: Sequence[str] = (),
    truth: TruthSet | None = None,
    names: Sequence[str] = (),
    audit_options: AuditOptions = AuditOptions(),
    lineage_dirs: Sequence[str] = (),
    publication: PublicationRecord = DEFAULT_PUBLICATION,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> AuditResult:
    """Audit an atlas. Shards that are done are not computed again.

    Writes ``faithfulness/`` and ``sanity/`` (``pipeline.metrics``); the tables of ``write_map_tables``;
    ``shortcuts.parquet``, ``suspicious.parquet``, ``clusters.parquet`` and ``members.parquet``; ``lineage.parquet``,
    ``completeness.parquet``, ``reproducibility.parquet`` and ``environment.json``; exports; ``report/``; a dataset card
    ``README.md`` and ``croissant.json``; and finally ``manifest.json``, which makes the audit valid. Columns are in
    ``schemas.audit_tables``.

    Args:
        atlas: the atlas with the maps, or several of one run over different shards.
        out: output folder or URL; None is ``audit/<target>`` in the atlas.
        target: target kind of the maps.
        methods: names of methods; empty is all.
        truth: truth of the images; see ``write_map_tables``.
        names: names of the classes by class id; empty are those of the atlas.
        audit_options: parts of the audit.
        lineage_dirs: products outside of the atlas, see ``build_lineage_table``.
        publication: facts that only the publisher knows.
        options: where and on which device it is computed; may shell commands be run to read images.
        log: called with progress, with signs that the truth means something else than its format says, and with faults
            of the lineage.

    Raises:
        UsageError: no image has maps, or not all classes are named; see also ``write_map_tables``,
            ``build_lineage_table`` and ``export_audit``.
        CorruptShardError: images cannot be read, or have changed.
        SpecMismatchError: the network has changed.
    """
    from pipeline.metrics.evaluate_atlas import evaluate_metrics  # the network is needed only here
    from pipeline.metrics.run_speed import describe_time

    if atlas.networks:
        raise UsageError(
            f"{atlas.url}: an audit is of one network; audit each, and compare them by vitatlas score, or by the "
            "agreement of a policy with methods of both"
        )
    if not atlas.statuses()[SampleStatus.OK]:
        url = atlas.url
        raise UsageError(f"{url}: no image has maps to audit; vitatlas status {url} says why")
    target, names = atlas.find_class_target(target), atlas.class_names(names)
    out = (out or default_audit_dir(atlas, target)).rstrip("/")
    for name in audit_options.exports:
        if name not in EXPORTERS:
            raise UsageError(f"there is no export {name!r}; there are {', '.join(EXPORTERS)}{suggest(name, EXPORTERS)}")
        EXPORTERS[name].require_packages()
    objects = ObjectStore(out)
    open_map_tables(atlas, out, target, methods, truth).check_output()
    _refuse_other_content(objects, audit_options)
    find_products(atlas, lineage_dirs, None)
    if truth is not None:
        match_truth(atlas, truth, target, log)  # refused or named before anything is computed
    sizes: dict[MetricSuite, int] = {
        "faithfulness": audit_options.faithfulness_images,
        "sanity": audit_options.sanity_images,
    }
    if any(sizes.values()) or audit_options.recomputed_images or audit_options.include_images:
        refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    if costs := _network_costs(atlas, sizes, methods, audit_options.recomputed_images):
        time = describe_time(atlas, atlas.shard_names, sum(costs.values()))
        log(f"the network takes {time}: {describe_shares(costs)}")
    for suite, images in sizes.items():
        if images:
            evaluate_metrics(atlas, f"{out}/{suite}", suite, methods, images, options=options, log=log)
    log("tables: statistics of all maps, agreement of all pairs of methods")
    write_map_tables(atlas, out, target, methods, truth, options)
    for fault in find_lineage_faults(atlas, lineage_dirs, out):
        log(fault)
    log("shortcuts: outliers and clusters of the maps of each class")
    shortcuts = find_shortcuts(atlas, target, methods, options)
    tables: dict[str, pa.Table] = {
        "suspicious": rank_classes(shortcuts.classes),
        "shortcuts": shortcuts.classes,
        "clusters": shortcuts.clusters,
        "members": shortcuts.members,
        "completeness": build_completeness_table(atlas),
        "lineage": build_lineage_table(atlas, lineage_dirs, out),
    }
    if audit_options.recomputed_images:
        tables["reproducibility"] = build_reproducibility_table(
            atlas, audit_options.recomputed_images, methods, 0, options, log
        )
    with Lease(objects):
        for name, table in tables.items():
            objects.put(f"{name}.parquet", to_parquet(table))
        objects.put("environment.json", collect_environment(atlas).to_bytes())
    for name in audit_options.exports:
        log(f"export to {name}")
        export_audit(atlas, out, name, target, methods, truth, audit_options.include_images, names, options)
    write_report(atlas, out, target, names, audit_options.include_images, options=options, log=log)
    with Lease(objects):
        objects.put(CARD_NAME, render_dataset_card(atlas, out, publication, audit_options.include_images))
        objects.put(CROISSANT_NAME, build_croissant(atlas, out, publication))
    return AuditResult(write_manifest(out), tables["suspicious"])


def _network_costs(
    atlas: MapReader, sizes: Mapping[MetricSuite, int], methods: Sequence[str], recomputed: int
) -> dict[str, float]:
    """Return the expected time of the parts of an audit that need the network, in masked forwards."""
    from pipeline.metrics.evaluate_atlas import suite_forwards

    with_maps, audited = atlas.statuses()[SampleStatus.OK], len(methods or atlas.methods)
    costs: dict[str, float] = {
        suite: min(images, with_maps) * suite_forwards(atlas, suite, audited)
        for suite, images in sizes.items()
        if images
    }
    if recomputed:  # all methods of the run
        per_image = sum(COSTS.values()) * (1 + MAP_FORWARDS * len(atlas.methods))
        costs["recompute"] = min(recomputed, with_maps) * per_image
    return costs


def default_audit_dir(atlas: MapReader, target: str) -> str:
    """Return the folder of an audit if none is named: ``audit/<target>`` in the atlas.

    Raises:
        UsageError: there are several atlases, and their audit belongs to no one of them.
    """
    if len(atlas.atlases) > 1:
        raise UsageError(f"{atlas.url}: their audit belongs to no one of them; name a folder with --out DIR")
    return f"{atlas.url.rstrip('/')}/{AUDIT}/{folder_name(atlas.find_target(target))}"


def _refuse_other_content(objects: ObjectStore, audit_options: AuditOptions) -> None:
    """Make sure that the folder holds nothing that this audit does not write.

    Raises:
        UsageError: the folder holds something else, or an export that this audit does not write.
    """
    for kind in EXPORTERS:
        if kind not in audit_options.exports and objects.exists(f"{kind}/{ABOUT}"):
            raise UsageError(f"{objects.url}: holds an export to {kind}; add --export {kind}, or remove it")
    if not objects.exists(ABOUT):
        allowed = (*get_args(MetricSuite), LEASE)  # a call that was stopped early may have left them
        for name, _ in objects.list_all():
            if name.partition("/")[0] not in allowed:
                raise UsageError(
                    f"{objects.url}: holds {name}, which belongs to no audit; name an empty folder with --out"
                )
