"""Tables of an audit, and scores of its atlas, read for the report."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import MapReader, ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.store.ranking import read_ranking
from schemas.audit_records import AuditSpec
from schemas.audit_tables import OTHER_BATCH, SAME_BATCH
from schemas.errors import UsageError
from schemas.layout import ABOUT, SCORES
from schemas.rank import RankRecord
from schemas.scores import ScoringSpec

_LOCALIZATION = "localization.parquet"


@dataclass(frozen=True)
class AuditTables:
    """Tables of an audit. Columns: ``schemas.audit_tables``, ``schemas.metrics`` and ``schemas.scores``.

    Attributes:
        objects: folder of the audit.
        about: settings of the audit.
        methods: means by method.
        agreement: means by pair of methods.
        shortcuts: evidence for shortcuts by method and class.
        clusters: clusters of the maps of classes.
        faithfulness: summary of faithfulness metrics; None if not computed.
        sanity: summary of sanity checks; None if not computed.
        completeness: counts of samples and maps; None if not computed.
        reproducibility: comparison of recomputed maps; None if not computed.
        localization: scores by the name of the truth.
        ranking: of the same maps, by ``vitatlas rank``; None if there is none.
    """

    objects: ObjectStore
    about: AuditSpec
    methods: pa.Table
    agreement: pa.Table
    shortcuts: pa.Table
    clusters: pa.Table
    faithfulness: pa.Table | None
    sanity: pa.Table | None
    completeness: pa.Table | None
    reproducibility: pa.Table | None
    localization: dict[str, pa.Table]
    ranking: RankRecord | None


def read_audit(atlas: MapReader, out: str, target: str) -> AuditTables:
    """Read the tables of an audit.

    Args:
        atlas: the audited atlas.
        out: folder or URL of the audit.
        target: target kind of the audited maps.

    Raises:
        UsageError: the folder holds no audit, or one of another atlas or target kind; or a ranking cannot be read.
    """
    objects = ObjectStore(out)
    fix = "make it first: vitatlas audit"
    try:
        about = AuditSpec.read(objects.get(ABOUT), f"{out}/{ABOUT}")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{out}: is no audit (it has no {ABOUT}); {fix}") from None
    if (about.run, about.target) != (atlas.run.run_hash, target):
        raise UsageError(f"{out}: is an audit of {about.target} maps of run {about.run[:19]}, not of these; {fix}")
    tables = {}
    for name in ("methods", "agreement", "shortcuts", "clusters"):
        table = _read_table(objects, name)
        if table is None:
            raise UsageError(f"{out}: has no {name}.parquet; {fix}")
        tables[name] = table
    return AuditTables(
        objects=objects,
        about=about,
        **tables,
        faithfulness=_filter_target(_read_table(objects, "faithfulness/summary"), target),
        sanity=_filter_target(_read_table(objects, "sanity/summary"), target),
        completeness=_read_table(objects, "completeness"),
        reproducibility=_read_table(objects, "reproducibility"),
        localization=_read_localization(atlas, target),
        ranking=read_ranking(atlas, target),
    )


def _read_table(objects: ObjectStore, name: str) -> pa.Table | None:
    try:
        return from_parquet(objects.get(f"{name}.parquet"))
    except FileNotFoundError:
        return None


def _filter_target(table: pa.Table | None, target: str) -> pa.Table | None:
    return None if table is None else table.filter(pc.equal(table["target"].cast(pa.string()), target))


def _read_localization(atlas: MapReader, target: str) -> dict[str, pa.Table]:
    """Read the finished scores of the same maps in the atlas."""
    tables = {}
    for objects in atlas.products(SCORES).values():
        if objects.exists(ABOUT) and objects.exists(_LOCALIZATION):
            about = ScoringSpec.read(objects.get(ABOUT), f"{objects.url}/{ABOUT}")
            if (about.run, about.target) == (atlas.run.run_hash, target):
                tables[about.name] = from_parquet(objects.get(_LOCALIZATION))
    return tables


@dataclass(frozen=True)
class RecomputedMapsSummary:
    """Summary of the comparison of recomputed maps.

    Attributes:
        equal_share: share of all maps that are bitwise equal with the batch size of the run; None if there are none.
        max_difference: largest difference of a value in [0, 1] with the other batch size; None if there are none.
        methods: rows of ``schemas.audit_tables.REPRODUCIBILITY`` of each method with the batch size of the run, and
            with the other.
    """

    equal_share: float | None
    max_difference: float | None
    methods: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


def summarize_reproducibility(table: pa.Table | None, target: str) -> RecomputedMapsSummary | None:
    """Summarize the comparison of the maps of a target kind.

    Args:
        table: ``schemas.audit_tables.REPRODUCIBILITY``; None if it was not computed.
        target: target kind.

    Returns:
        The summary; None if no method has any maps.
    """
    rows = [row for row in table.to_pylist() if row["target"] == target] if table is not None else []
    same_batch = {row["method"]: row for row in rows if row["kind"] == SAME_BATCH}
    other_batch = {row["method"]: row for row in rows if row["kind"] == OTHER_BATCH}
    methods = tuple((same_batch[method], other_batch[method]) for method in same_batch if method in other_batch)
    if not methods:
        return None
    equal_shares = _without_none(row["equal_share"] for row, _ in methods)
    differences = _without_none(row["max_difference"] for _, row in methods)
    return RecomputedMapsSummary(
        equal_share=sum(equal_shares) / len(equal_shares) if equal_shares else None,
        max_difference=max(differences, default=None),
        methods=methods,
    )


def _without_none(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
