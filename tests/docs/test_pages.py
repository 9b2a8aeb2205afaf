"""Links resolve on the code host and the built site; generated parts equal the code; all fields are described."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import click
import pyarrow as pa
import pytest
from docs.pages import PAGES, ROOT
from docstrings import option_texts, parse_docstring
from generate import BLOCK, describe, fields_of, load, render
from mdit_py_plugins.anchors.index import slugify

import schemas
from jobs.cli import COMMANDS
from pipeline.explain import Method, methods
from pipeline.label import LABEL_FORMATS
from pipeline.read.shard_reader import IMAGE_EXTENSIONS
from schemas.audit_tables import TABLES
from schemas.base import Record
from schemas.labels import LABELS, LabelStatus
from schemas.samples import SAMPLES, SampleStatus
from schemas.scores import CURVES, IMAGE_ROWS, LOCALIZATION

FORMATS = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def records() -> list[type]:
    """List every record that is written as JSON or read as YAML."""
    for module in pkgutil.iter_modules(schemas.__path__):
        importlib.import_module(f"schemas.{module.name}")
    return [*filter(fields_of, _subclasses(Record)), load("schemas.shard_record.ShardRecord")]


def _subclasses(record: type) -> Iterator[type]:
    for subclass in record.__subclasses__():
        if subclass.__module__.startswith("schemas."):
            yield subclass
        yield from _subclasses(subclass)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", CODE.sub(_unquote, linked.read_text("utf-8")), re.MULTILINE)
            assert anchor in map(slugify, headings), target


def _unquote(code: re.Match[str]) -> str:
    return "" if code[0].startswith("```") else code[0].strip("`")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_generated_parts_equal_the_code(page: Path) -> None:
    text = page.read_text("utf-8")
    assert render(text) == text, "run make reference"


@pytest.mark.parametrize("record", records(), ids=lambda record: record.__name__)
def test_every_field_of_a_record_is_described(record: type) -> None:
    assert set(fields_of(record)) == set(parse_docstring(record).sections.get("Attributes", {}))


def test_every_record_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert [record.__name__ for record in records() if f"\n### {record.__name__}\n" not in pages] == []


@pytest.mark.parametrize(
    "schema",
    [SAMPLES, LABELS, CURVES, IMAGE_ROWS, LOCALIZATION, *(table.schema for table in TABLES)],
    ids=lambda schema: schema.names[-1],
)
def test_every_column_is_described(schema: pa.Schema) -> None:
    assert [field.name for field in schema if not describe(field)] == []


@pytest.mark.parametrize("enumeration", [SampleStatus, LabelStatus])
def test_every_status_is_described(enumeration: type[StrEnum]) -> None:
    assert [status.name for status in enumeration] == list(parse_docstring(enumeration).sections["Attributes"])


@pytest.mark.parametrize("method", methods.values(), ids=lambda method: method.base_name)
def test_every_option_of_a_method_is_described(method: type[Method]) -> None:
    sections = parse_docstring(method).sections
    assert set(option_texts(method)) == set(method().options())
    assert set(sections.get("Presets", {})) == set(method.presets)
    assert set(sections.get("Extra outputs", {})) == set(method.extra_outputs)


def test_every_label_format_and_image_format_is_explained() -> None:
    assert [name for name in (*LABEL_FORMATS, *IMAGE_EXTENSIONS) if f"`{name}`" not in FORMATS] == []


def test_every_command_is_a_click_command() -> None:
    for name in COMMANDS:
        assert isinstance(getattr(importlib.import_module(f"jobs.{name}"), f"{name}_command"), click.Command)
