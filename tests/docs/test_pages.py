"""Links lead somewhere, on the code host as in the built pages; what is made from code is whole."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import click
import pytest
from docs.pages import PAGES, ROOT, blocks
from docstrings import columns, said
from mdit_py_plugins.anchors.index import slugify
from reference import fields_of, found

import schemas
from jobs.cli import COMMANDS
from pipeline.explain import Method, methods
from pipeline.explain.method_table import BEGIN, END, markdown
from pipeline.label import LABEL_FORMATS
from pipeline.read.samples import IMAGES
from schemas.audit_tables import TABLES
from schemas.base import Record
from schemas.labels import LabelStatus
from schemas.samples import SampleStatus

README = ROOT / "README.md"
FORMATS = (ROOT / "docs" / "reference" / "formats.md").read_text("utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def records() -> list[type]:
    """All that is written as JSON or read as YAML."""
    for module in pkgutil.iter_modules(schemas.__path__):
        importlib.import_module(f"schemas.{module.name}")
    return [*_below(Record), found("schemas.run.ShardRecord")]


def _below(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("schemas."):
            yield each
        yield from _below(each)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor and "```{" not in there.read_text(
            "utf-8"
        ):  # headings made from code are checked when pages are built
            headings = re.findall(r"^#+ (.*)$", CODE.sub(_inner, there.read_text("utf-8")), re.MULTILINE)
            assert anchor in map(slugify, headings), target


def _inner(code: re.Match[str]) -> str:
    return "" if code[0].startswith("```") else code[0].strip("`")


def test_the_table_of_methods_is_the_registrys() -> None:
    page = README.read_text("utf-8")
    assert page[page.index(BEGIN) : page.index(END) + len(END)] == markdown()


@pytest.mark.parametrize("record", records(), ids=lambda record: record.__name__)
def test_every_field_of_a_record_is_described(record: type) -> None:
    assert set(fields_of(record)) == set(said(record).of.get("Attributes", {}))


@pytest.mark.parametrize(
    "path",
    [
        "schemas.samples.SAMPLES",
        "schemas.labels.LABELS",
        "schemas.scores.LOCALIZATION",
        "schemas.scores.CURVES",
        "schemas.metrics.METRIC_VALUES",
        "schemas.metrics.METRIC_SUMMARY",
    ],
)
def test_every_column_is_described(path: str) -> None:
    of = columns(path).of[""]
    assert [name for name in found(path).names if not of.get(name)] == []


def test_every_column_of_an_audit_is_described() -> None:
    assert [(table.name, name) for table in TABLES for name in table.schema.names if not table.meaning(name)] == []


@pytest.mark.parametrize("kind", [SampleStatus, LabelStatus])
def test_every_status_is_described(kind: type[StrEnum]) -> None:
    assert [each.name for each in kind] == list(said(kind).of["Attributes"])


@pytest.mark.parametrize("method", methods.values(), ids=lambda method: method.base)
def test_every_option_of_a_method_is_described(method: type[Method]) -> None:
    of = said(method).of
    assert set(of.get("Options", {})) == set(method().options())
    assert (set(of.get("Presets", {})), set(of.get("Extra outputs", {}))) == (
        set(method.presets),
        set(method.extra_outputs),
    )


def test_every_format_and_kind_of_picture_is_explained() -> None:
    assert [name for name in (*LABEL_FORMATS, *IMAGES) if f"`{name}`" not in FORMATS] == []


def test_every_record_and_command_is_in_the_reference() -> None:
    named = {path.rsplit(".", 1)[1] for block in blocks("{fields}") for path in shown(block.name)}
    assert {record.__name__ for record in records()} - named == set()
    assert all(isinstance(importlib.import_module(f"jobs.{name}").command, click.Command) for name in COMMANDS)


def shown(block: str) -> list[str]:
    """What a directive at a place names."""
    page, line = block.rsplit(":", 1)
    return (ROOT / page).read_text("utf-8").splitlines()[int(line) - 1].split()[1:]
