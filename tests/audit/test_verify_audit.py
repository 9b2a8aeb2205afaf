"""Whatever is changed in a published audit is named; also where a new manifest was written over the change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from some_audit import PUBLICATION

from pipeline.audit.publication.croissant import CROISSANT_NAME, build_croissant
from pipeline.audit.publication.dataset_card import CARD_NAME, render_dataset_card
from pipeline.audit.publication.manifest import write_manifest
from pipeline.audit.publication.verify_audit import verify_audit
from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import to_parquet
from schemas.audit_records import MANIFEST
from schemas.base import sha256
from schemas.errors import UsageError

TAR = "demo-validation-01"
Change = Callable[[list[dict[str, Any]]], Any]


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """That audit, to be damaged."""
    return shutil.copytree(published, tmp_path / "audit")


def test_an_audit_as_it_was_published_has_no_fault(published: Path) -> None:
    assert list(verify_audit(str(published))) == []
    root = json.loads((published / MANIFEST).read_text())["root"]
    assert list(verify_audit(str(published), root)) == []


def test_a_flipped_byte_of_any_object_names_it(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(paths) > 20
    for number, path in enumerate(paths):
        data = path.read_bytes()
        for place in {number * 7919 % len(data), len(data) - 1}:
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            faults = list(verify_audit(str(folder)))
            assert [fault.split(":")[0] for fault in faults] == [str(path.relative_to(folder))]
        path.write_bytes(data)
    assert list(verify_audit(str(folder))) == []


def first(**values: Any) -> Change:
    """Change of the first row."""
    return lambda rows: rows[0].update(values)


def where(condition: Callable[[dict[str, Any]], bool], **values: Any) -> Change:
    """Change of the first row that meets a condition."""
    return lambda rows: next(row for row in rows if condition(row)).update(values)


FORGED: dict[str, tuple[str, Change, str]] = {
    "a mean": ("methods.parquet", first(entropy=0.5), "methods.parquet: entropy of attention, all classes is 0.5"),
    "a count of a mean": ("methods.parquet", first(degenerate=1), "methods.parquet: degenerate of"),
    "no mean": ("methods.parquet", lambda rows: rows.pop(), "methods.parquet: has no row of"),
    "a mean of nothing": ("methods.parquet", first(**{"class": 99}), "methods.parquet: has a"),
    "a mean twice": ("methods.parquet", lambda rows: rows.append(rows[0]), "methods.parquet: has 56 rows of 55"),
    "a shard that is not there": ("completeness.parquet", first(shard="x"), "images/x.parquet: is missing"),
    "an agreement": ("agreement.parquet", first(iou=1.0), "agreement.parquet: iou of"),
    "a summary": ("sanity/summary.parquet", first(mean=0.0), "sanity/summary.parquet: mean of"),
    "an interval": ("sanity/summary.parquet", first(high=9.0), "sanity/summary.parquet: high of"),
    "no summary": ("sanity/summary.parquet", lambda rows: rows.clear(), "sanity/summary.parquet: has no row of"),
    "a figure": (f"sanity/values/{TAR}.parquet", first(value=9.0), "sanity/summary.parquet: mean of"),
    "a count": ("completeness.parquet", first(count=1), f"completeness.parquet: {TAR[:-1]}0 samples are 1 and should"),
    "what is planned": ("completeness.parquet", first(expected=1), "completeness.parquet: "),
    "all of it": ("completeness.parquet", first(count=1, expected=1), f"images/{TAR[:-1]}0.parquet: has 24 images"),
    "a picture": (f"images/{TAR}.parquet", first(gini=0.0), "methods.parquet: gini of"),
    "a pair": (f"pairs/{TAR}.parquet", first(pearson=0.0), "agreement.parquet: pearson of"),
    "a hash": (
        "lineage.parquet",
        lambda rows: rows[-1].update(content_hash="sha256:0"),
        "lineage.parquet: content_hash of audit/sanity",
    ),
    "maps": ("lineage.parquet", first(content_hash="sha256:0"), f"commits/{TAR[:-1]}0.json: was made of other maps"),
    "two ranks": ("shortcuts.parquet", first(rank=2), "shortcuts.parquet: ranks of attention, label are not 1 to"),
    "an order": ("shortcuts.parquet", first(excess=-1.0), "shortcuts.parquet: ranks of attention, label are not in"),
    "clusters": ("shortcuts.parquet", first(clusters=7), "clusters.parquet: clusters of attention, label, "),
    "the size of a cluster": ("clusters.parquet", first(maps=99), "clusters.parquet: maps of attention, label, "),
    "a prototype": ("clusters.parquet", first(central_row=10**6), "clusters.parquet: the central map of attention"),
    "a member": ("members.parquet", first(cluster=7), "members.parquet: has maps in attention, label, "),
    "a table": (
        "methods.parquet",
        lambda rows: [row.pop("gini") for row in rows],
        "methods.parquet: has no column gini",
    ),
    "a type": (
        "methods.parquet",
        lambda rows: [row.update(gini="x") for row in rows],
        "methods.parquet: column gini is",
    ),
}
"""What a forger changes before a new manifest is written, and the beginning of a sentence about it."""


@pytest.mark.parametrize("what", FORGED)
def test_what_a_forger_changed_contradicts_what_it_was_made_from(folder: Path, what: str) -> None:
    name, change, said = FORGED[what]
    table = pq.read_table(folder / name)
    rows = table.to_pylist()
    change(rows)
    names = list(rows[0]) if rows else table.column_names
    typed = [field for field in table.schema if field.name in names]
    if what == "a type":
        typed = [pa.field(field.name, pa.string()) if field.name == "gini" else field for field in typed]
    (folder / name).write_bytes(to_parquet(pa.Table.from_pylist(rows, schema=pa.schema(typed))))
    write_manifest(str(folder))
    faults = list(verify_audit(str(folder)))
    assert any(fault.startswith(said) for fault in faults), faults


def test_a_part_that_is_not_what_its_record_and_croissant_say_is_named(folder: Path) -> None:
    for name in (f"images/{TAR}.parquet", "methods.parquet"):
        path = folder / name
        path.write_bytes(to_parquet(pq.read_table(path).replace_schema_metadata({"new": "writer"})))
    write_manifest(str(folder))
    assert sorted(verify_audit(str(folder))) == [
        f"images/{TAR}.parquet: differs from commits/{TAR}.json",
        "methods.parquet: differs from croissant.json",
    ]


@pytest.mark.parametrize("name", ["about.json", f"commits/{TAR}.json", "croissant.json"])
def test_a_record_that_cannot_be_read_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    write_manifest(str(folder))
    assert any(fault.startswith(name) for fault in verify_audit(str(folder)))


@pytest.mark.parametrize(
    "name", ["methods.parquet", "lineage.parquet", f"pairs/{TAR}.parquet", "sanity/summary.parquet"]
)
@pytest.mark.parametrize("data", [None, b"", b"no table"])
def test_a_table_that_is_missing_or_none_is_named(folder: Path, name: str, data: bytes | None) -> None:
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    write_manifest(str(folder))
    assert any(fault.startswith(name) for fault in verify_audit(str(folder)))


def test_a_record_that_leads_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    path = folder / "commits" / f"{TAR}.json"
    record = json.loads(path.read_text())
    record["objects"][0] = {"path": "../secret", "size": 1, "sha256": sha256(b"x")}
    path.write_text(json.dumps(record))
    write_manifest(str(folder))
    assert any("'../secret' is not a valid object name" in fault for fault in verify_audit(str(folder)))


def test_texts_that_are_no_utf_8_are_named(folder: Path) -> None:
    path = folder / "lineage.parquet"
    table = pq.read_table(path)
    broken = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    path.write_bytes(
        to_parquet(
            table.set_column(table.column_names.index("content_hash"), table.schema.field("content_hash"), broken)
        )
    )
    write_manifest(str(folder))
    assert list(verify_audit(str(folder))) == ["lineage.parquet: cannot be read (ArrowInvalid)"]


def test_a_bucket_is_checked_and_described_alike(published: Path) -> None:
    objects = ObjectStore("memory://audit")
    for path in published.rglob("*"):
        if path.is_file():
            objects.put(str(path.relative_to(published)), path.read_bytes())
    assert list(verify_audit(objects.url)) == []
    url = str(published.parents[1])
    assert render_dataset_card(Atlas.open(url), objects.url, PUBLICATION) == (published / CARD_NAME).read_bytes()
    assert build_croissant(Atlas.open(url), objects.url, PUBLICATION) == (published / CROISSANT_NAME).read_bytes()


def test_a_folder_that_was_never_published_is_refused(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    with pytest.raises(UsageError, match=r"has no manifest\.json"):
        list(verify_audit(str(folder)))
