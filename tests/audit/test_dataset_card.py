"""The card says what is in the folder, loads it, and shows texts of strangers as text."""

import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from some_audit import PUBLICATION

from pipeline.audit.publication.dataset_card import CARD_NAME, render_dataset_card
from pipeline.store import Atlas
from pipeline.store.parquet import to_parquet
from pipeline.utils.markdown import escape_markdown
from schemas.audit_tables import TABLES, AuditTable


def head_and_body(published: Path) -> tuple[dict, str]:
    text = (published / CARD_NAME).read_text()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_its_head_is_what_the_hub_reads(published: Path) -> None:
    head, _ = head_and_body(published)
    assert (head["pretty_name"], head["license"]) == (PUBLICATION.name, "cc-by-4.0")
    assert head["size_categories"] == ["n<1K"]
    assert {"task_categories", "tags", "configs"} <= set(head)
    assert [each["config_name"] for each in head["configs"] if each.get("default")] == ["methods"]


@pytest.mark.parametrize("name", ["methods", "images", "shortcuts", "completeness", "sanity"])
def test_every_table_that_it_names_is_loaded_by_name(published: Path, tmp_path: Path, name: str) -> None:
    head, _ = head_and_body(published)
    there = {each["config_name"]: each["data_files"][0]["path"] for each in head["configs"]}
    found = datasets.load_dataset(str(published), name, split="train", cache_dir=str(tmp_path))
    rows = sum(pq.read_metadata(path).num_rows for path in published.glob(there[name]))
    assert len(found) == rows > 0


def test_a_licence_that_the_hub_has_no_name_for_is_linked(published: Path) -> None:
    said = PUBLICATION.model_copy(update={"license": "https://example.org/terms"})
    text = render_dataset_card(Atlas.open(str(published.parents[1])), str(published), said).decode()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["license_link"]) == ("other", "https://example.org/terms")


@pytest.mark.parametrize("table", [pytest.param(table, id=table.name) for table in TABLES])
def test_every_column_that_there_may_be_has_a_meaning(table: AuditTable) -> None:
    assert table.row
    assert [name for name in table.schema.names if not table.describe(name)] == []


def test_every_table_and_column_is_told_with_its_meaning(published: Path) -> None:
    body = head_and_body(published)[1]
    there = [table for table in TABLES if list(published.glob(table.files))]
    assert len(there) == len(TABLES)
    for table in there:
        assert f"### {escape_markdown(table.name)}\n" in body
        section = body.split(f"### {escape_markdown(table.name)}\n")[1].split("\n##")[0]
        for column in pq.read_schema(next(published.glob(table.files))).names:
            assert f"| `{column}` | " in section
    assert "|  |\n" not in body


def test_texts_of_strangers_are_text(published: Path) -> None:
    body = head_and_body(published)[1]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<img" not in page
    assert "<b>" not in page
    assert "Demo: &lt;img src=x&gt; *audit* | 1</h1>" in page
    assert "- list: [of] &amp; &lt;b&gt;&quot;nothing&quot;&lt;/b&gt; '|`x`." in page


def test_numbers_are_those_of_the_tables_and_no_path_or_root_is_told(published: Path) -> None:
    body = head_and_body(published)[1]
    run = Atlas.open(str(published.parents[1])).run
    assert f"| images with maps | {run.samples} of {run.samples} |" in body
    assert run.model.weights in body
    assert "vitatlas audit --check DIR" in body
    assert str(published.parents[1]) not in body
    assert "no pixels of the images are redistributed" in body
    assert "32 of 32 samples that were chosen" in body


def test_the_same_audit_has_the_same_card_and_thumbnails_are_told(published: Path) -> None:
    url, out = str(published.parents[1]), str(published)
    assert render_dataset_card(Atlas.open(url), out, PUBLICATION) == (published / CARD_NAME).read_bytes()
    shown = render_dataset_card(Atlas.open(url), out, thumbnails=True).decode()
    assert "# atlas\n" in shown
    assert "which remain under the licence of their dataset" in shown


@pytest.mark.parametrize(
    "text", ["a|b", "<script>", "[x](javascript:1)", "`code`", "**b**", "# h\n# h", "\x1b[31m", "a\\|b", "&lt;", "$x$"]
)
def test_whatever_is_put_in_comes_out_as_it_was_said(text: str) -> None:
    page = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| a |\n|---|\n| {escape_markdown(text)} |\n")
    )
    cells = page.split("<td>")[1].split("</td>")[0]
    shown = " ".join(text.split()).replace("\x1b", "\\x1b")
    assert cells == shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_what_is_missing_is_told_with_reasons_and_what_was_not_looked_at_as_well(
    published: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(published, tmp_path / "audit")
    table = pq.read_table(folder / "completeness.parquet")
    rows = table.to_pylist()
    rows[0] |= {"count": 20}
    rows.append(rows[0] | {"status": "undecodable", "reason": "<img src=x> | broken", "count": 4})
    (folder / "completeness.parquet").write_bytes(to_parquet(pa.Table.from_pylist(rows, schema=table.schema)))
    (folder / "reproducibility.parquet").unlink()
    text = render_dataset_card(Atlas.open(str(published.parents[1])), str(folder)).decode()
    assert "Of 48 planned images, 44 have maps." in text
    assert "| 4 | undecodable | &lt;img src=x&gt; \\| broken |" in text
    assert "Not measured." in text
    (folder / "completeness.parquet").unlink()
    assert "Not counted." in render_dataset_card(Atlas.open(str(published.parents[1])), str(folder)).decode()
