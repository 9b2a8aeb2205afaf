"""What an audit and the scores of its atlas hold, read for the report. Nothing is computed here."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import from_parquet
from schemas.audit_records import AuditRecord
from schemas.errors import UsageError
from schemas.layout import ABOUT, SCORES
from schemas.run import TargetKind
from schemas.scores import ScoresRecord

_LOCALIZATION = "localization.parquet"


@dataclass(frozen=True)
class AuditTables:
    """Tables of an audit; columns are in ``schemas.audit_tables`` and, of scores, in ``schemas.metrics`` and ``schemas.scores``.

    Attributes:
        objects: of its folder.
        faithfulness, sanity, completeness, reproduced: None where they were not made.
        localization: by the name of the truth.
    """

    objects: ObjectStore
    about: AuditRecord
    methods: pa.Table
    agreement: pa.Table
    shortcuts: pa.Table
    clusters: pa.Table
    faithfulness: pa.Table | None
    sanity: pa.Table | None
    completeness: pa.Table | None
    reproduced: pa.Table | None
    localization: dict[str, pa.Table]


def read_audit(atlas: Atlas, out: str, target: TargetKind) -> AuditTables:
    """The audit in a folder.

    Raises:
        UsageError: there is none, or it is of another atlas or target.
    """
    objects = ObjectStore(out)
    mend = "make it first: vitatlas audit"
    try:
        about = AuditRecord.read(objects.get(ABOUT), f"{out}/{ABOUT}")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{out}: is no audit (it has no {ABOUT}); {mend}") from None
    if (about.run, about.target) != (atlas.run.spec_hash, target):
        raise UsageError(f"{out}: is an audit of {about.target} maps of run {about.run[:19]}, not of these; {mend}")
    found = {}
    for name in ("methods", "agreement", "shortcuts", "clusters"):
        table = _table(objects, name)
        if table is None:
            raise UsageError(f"{out}: has no {name}.parquet; {mend}")
        found[name] = table
    return AuditTables(
        objects=objects,
        about=about,
        **found,
        faithfulness=_of_target(_table(objects, "faithfulness/summary"), target),
        sanity=_of_target(_table(objects, "sanity/summary"), target),
        completeness=_table(objects, "completeness"),
        reproduced=_table(objects, "reproducibility"),
        localization=_localization(atlas, target),
    )


def _table(objects: ObjectStore, name: str) -> pa.Table | None:
    try:
        return from_parquet(objects.get(f"{name}.parquet"))
    except FileNotFoundError:
        return None


def _of_target(table: pa.Table | None, target: TargetKind) -> pa.Table | None:
    return None if table is None else table.filter(pc.equal(table["target"].cast(pa.string()), target))


def _localization(atlas: Atlas, target: TargetKind) -> dict[str, pa.Table]:
    """Finished scores of the same maps, in the atlas."""
    found = {}
    for folder in atlas.objects.list(SCORES):
        objects = ObjectStore(f"{atlas.objects.url}/{SCORES}/{folder}")
        if objects.exists(ABOUT) and objects.exists(_LOCALIZATION):
            about = ScoresRecord.read(objects.get(ABOUT), f"{objects.url}/{ABOUT}")
            if (about.run, about.target) == (atlas.run.spec_hash, target):
                found[about.name] = from_parquet(objects.get(_LOCALIZATION))
    return found
