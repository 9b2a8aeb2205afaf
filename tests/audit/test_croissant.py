"""The description in Croissant is accepted by the reference implementation, which reads the tables by it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pytest
from some_audit import PUBLICATION

from pipeline.audit.publication.croissant import CROISSANT_NAME, build_croissant
from pipeline.store import Atlas
from schemas.audit_records import MANIFEST
from schemas.audit_tables import TABLES, AuditTable
from schemas.base import sha256

# How mlcroissant uses rdflib and pandas.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def described(published: Path) -> dict[str, Any]:
    return json.loads((published / CROISSANT_NAME).read_text())


@pytest.fixture(scope="module")
def dataset(published: Path) -> mlcroissant.Dataset:
    """As the reference implementation reads the description, which takes it seconds."""
    return mlcroissant.Dataset(str(published / CROISSANT_NAME))


def test_the_validator_accepts_it_and_has_nothing_to_remark(published: Path) -> None:
    tool = [sys.executable, "-m", "mlcroissant.scripts.validate", "--jsonld", str(published / CROISSANT_NAME)]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line]
    assert len(said) == 1, done.stderr
    assert said[0].endswith("Done.")


@pytest.mark.parametrize(
    "table",
    [pytest.param(table, id=table.name) for table in TABLES if not table.files.startswith("faithfulness")],
)
def test_records_of_every_table_are_its_rows(published: Path, dataset: mlcroissant.Dataset, table: AuditTable) -> None:
    paths = sorted(published.glob(table.files))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    records = list(dataset.records(table.name))
    assert len(records) == len(rows) > 0
    for record, row in zip(records[:3], rows[:3], strict=True):
        for column, value in row.items():
            found = record[f"{table.name}/{column}"]
            found = found.decode() if isinstance(found, bytes) else found
            assert found == value if value is not None else found is None or found != found, column


def test_every_object_is_described_and_single_ones_by_their_hash(published: Path, described: dict[str, Any]) -> None:
    single = {each["contentUrl"]: each["sha256"] for each in described["distribution"] if "sha256" in each}
    globs = [glob for each in described["distribution"] for glob in each.get("includes", ())]
    for name, told in single.items():
        assert sha256((published / name).read_bytes()) == f"sha256:{told}"
    for path in published.rglob("*"):
        name = str(path.relative_to(published))
        if path.is_file() and name not in (CROISSANT_NAME, MANIFEST):
            assert name in single or any(path.match(glob) for glob in globs), name
    assert "README.md" in single
    assert "methods.parquet" in single


def test_what_croissant_asks_for_is_there(described: dict[str, Any], published: Path) -> None:
    for name in ("description", "license", "url", "creator", "datePublished", "version", "conformsTo", "citeAs"):
        assert described[name]
    assert described["name"] == PUBLICATION.name
    assert described["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    for name in ("machineAnnotationTools", "dataAnnotationProtocol", "dataLimitations", "dataBiases"):
        assert described[f"rai:{name}"]
    about = json.loads((published / "about.json").read_text())
    derived = {each["@id"] for each in described["prov:wasDerivedFrom"]}
    assert {f"urn:{about['run']}", f"urn:{about['truth']}"} < derived
    assert str(published.parents[1]) not in json.dumps(described)


def test_the_same_audit_is_described_alike_and_without_a_publisher_too(published: Path) -> None:
    url, out = str(published.parents[1]), str(published)
    assert build_croissant(Atlas.open(url), out, PUBLICATION) == (published / CROISSANT_NAME).read_bytes()
    plain = json.loads(build_croissant(Atlas.open(url), out))
    assert (plain["name"], plain["license"], plain["url"][:11]) == ("atlas", "unknown", "urn:sha256:")
    dataset = mlcroissant.Dataset(plain)
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
