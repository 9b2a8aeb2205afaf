"""Sphinx directives that make the reference from the code. They write Markdown, as the pages around them do."""

import importlib
import inspect
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import click
from docstrings import columns, said
from kinds import bounds, default, words
from pydantic import TypeAdapter
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parents[1]
SHEET = DOCS / "methods.jpg"


class Made(SphinxDirective):
    """Base: ``lines`` gives the Markdown, of what the arguments name."""

    optional_arguments = 100

    def run(self) -> list[Any]:
        text = "\n".join(self.lines(*self.arguments))
        return self.parse_text_to_nodes(text, allow_section_headings=True)

    @abstractmethod
    def lines(self, *arguments: str) -> Iterator[str]:
        """What stands in the place of the directive."""


def table(*rows: tuple[str, ...]) -> Iterator[str]:
    """A table, whose first row is its head; columns that are empty all the way down are left out."""
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    for number, row in enumerate(rows):
        yield "| " + " | ".join(" ".join(row[place].split()).replace("|", "\\|") for place in kept) + " |"
        if not number:
            yield "|---" * len(kept) + "|"
    yield ""


def grouped(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Rows of which the same is said, one after another, as one."""
    for meaning, alike in groupby(rows, lambda row: row[-1]):
        cells = zip(*(row[:-1] for row in alike), strict=True)
        yield (*(", ".join(dict.fromkeys(filter(None, cell))) for cell in cells), meaning)


def found(path: str) -> Any:
    """What a dotted path names."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


class Commands(Made):
    """``{commands}``: every command, its text, its options, its examples."""

    def lines(self) -> Iterator[str]:
        from jobs.cli import cli

        yield from _command(click.Context(cli, info_name="vitatlas"))


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f"## {context.command_path}\n"
    yield "```text\n" + command.get_usage(context).removeprefix("Usage: ") + "\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b"):
            yield paragraph + "\n"
            continue
        title, *block = paragraph.removeprefix("\b\n").split("\n")
        yield from [f"{title}\n", "```console", *(line.removeprefix("  ") for line in block), "```\n"]
    options = [each for each in command.params if isinstance(each, click.Option)]
    rows = [(f"`{names}`", text) for names, text in filter(None, (each.get_help_record(context) for each in options))]
    if rows:
        yield from table(("option", ""), *rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(click.Context(inner, context, info_name=name))


class Fields(Made):
    """``{fields} RECORD…``: what a record holds; those that are named later on the same page are led to."""

    def lines(self, *paths: str) -> Iterator[str]:
        here = frozenset(path.rsplit(".", 1)[1] for path in paths)
        for path in paths:
            record = found(path)
            about = said(record)
            yield f"### {record.__name__}\n\n{about.text}\n"
            rows = []
            for name, field in fields_of(record).items():
                kind = words(field.annotation, here) + bounds(field.metadata)
                rows.append((f"`{name}`", kind, default(field), about.of["Attributes"][name]))
            yield from table(("field", "type", "default", ""), *grouped(rows))


def fields_of(record: type[Any]) -> dict[str, Any]:
    """Fields of a record, or of a dataclass that pydantic checks, as pydantic knows them."""
    if hasattr(record, "model_fields"):
        return dict(record.model_fields)
    TypeAdapter(record).rebuild()
    return dict(record.__pydantic_fields__)


class Columns(Made):
    """``{columns} TABLE``: the columns of a Parquet table, or of a mapping from column to description."""

    def lines(self, path: str) -> Iterator[str]:
        schema, about = found(path), columns(path)
        yield about.text + "\n"
        if isinstance(schema, Mapping):
            yield from table(("column", ""), *grouped((f"`{name}`", text) for name, text in schema.items()))
            return
        rows = [(f"`{column.name}`", *_stored(column), about.of[""][column.name]) for column in schema]
        yield from table(("column", "type", "null", ""), *grouped(rows))


def _stored(column: Any) -> tuple[str, str]:
    """Type of a column for people, and whether it may be null."""
    kind = str(column.type).replace("dictionary<values=string, indices=int32, ordered=0>", "category")
    return kind.replace("<item: ", "<").replace("<element: ", "<"), "yes" if column.nullable else ""


class Tables(Made):
    """``{tables}``: all that may be in the folder of an audit."""

    def lines(self) -> Iterator[str]:
        from schemas.audit_tables import TABLES

        for each in TABLES:
            yield f"## {each.name}\n\n`{each.files}`: a row is {each.rows}.\n"
            rows = [(f"`{column.name}`", *_stored(column), each.meaning(column.name)) for column in each.schema]
            yield from table(("column", "type", "null", ""), *grouped(rows))


class Values(Made):
    """``{values} ENUM``: what a status may be."""

    def lines(self, path: str) -> Iterator[str]:
        kind = found(path)
        about = said(kind)
        yield about.text + "\n"
        yield from table(("status", ""), *grouped((f"`{each}`", about.of["Attributes"][each.name]) for each in kind))


class Arrays(Made):
    """``{arrays}``: what ``maps.zarr`` holds of a method."""

    def lines(self) -> Iterator[str]:
        from schemas.layout import arrays

        rows = [
            (f"`{name}`", f"({', '.join(kind.dims)})", kind.dtype, str(kind.empty))
            for name, kind in arrays("<method>", ["<extra_output>"]).items()
        ]
        yield from table(("array", "dimensions", "type", "where there is no map"), *rows)


class Methods(Made):
    """``{methods}``: each with its definition, options, cost, where it applies, and its maps in the sheet."""

    def lines(self) -> Iterator[str]:
        from pipeline.demo.method_gallery import load_gallery
        from pipeline.explain import methods

        folder = DOCS / "_build" / "strips"  # where Sphinx finds pictures: below the pages
        folder.mkdir(parents=True, exist_ok=True)
        pictures = load_gallery(SHEET)
        for name, picture in pictures.items():
            picture.save(folder / f"{name}.png")
        anatomies = _anatomies()
        for base, method in methods.items():
            about = said(method)
            yield f"## {base}\n"
            for name in ("image", base):
                if base in pictures:
                    yield f"![{name}](/_build/strips/{name}.png)\n"
            yield about.text + "\n"
            yield from _options(method, about.of)
            refused = {where: reason for where, it in anatomies.items() if (reason := method().unsupported(it))}
            where = "; ".join(f"{where}: {reason}" for where, reason in refused.items())
            if len(set(refused.values())) == 1 and len(refused) == len(anatomies):
                where = next(iter(refused.values()))
            yield from table(
                ("", ""),
                ("map of", "the class" if method.by_class else "the image, whatever the class"),
                ("cost, in forwards", method.cost),
                ("part of a run that names no methods", "yes" if method.usual else "no"),
                ("refused", where or "never"),
                ("from", method.paper),
            )


def _options(method: Any, of: dict[str, dict[str, str]]) -> Iterator[str]:
    kinds = get_type_hints(method)
    rows = [
        (
            f"`{each.name}`",
            words(kinds[each.name]),
            f"`{each.default}`" if each.default != "" else "none",
            of["Options"][each.name],
        )
        for each in dataclass_fields(method)
    ]
    if rows:
        yield from table(("option", "type", "default", ""), *rows)
    for section in ("Presets", "Extra outputs"):
        for name, text in of.get(section, {}).items():
            yield f"{section[:-1]} `{name}`: {text}\n"


def _anatomies() -> dict[str, Any]:
    """A plain network of each kind of read-out."""
    from pipeline.explain import describe
    from pipeline.explain.load import create

    plain = describe(create("test_vit", num_classes=10))
    kinds = {"class token": "token", "mean read-out": "mean", "attention pooler": "pool"}
    return {name: replace(plain, readout=readout) for name, readout in kinds.items()}


_OUTSIDE = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#]+\.md)(?:#[^)]*)?\)")


def adapt(app: Sphinx, page: str, source: list[str]) -> None:
    """What a page needs on the site and not on the code host, where it is read as it stands.

    Sphinx wants pages below others named; and what is Markdown, but outside of this folder, is a file and no page.
    """
    if page == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"
    source[0] = _OUTSIDE.sub(lambda link: _file(link, DOCS / page), source[0])


def _file(link: re.Match[str], page: Path) -> str:
    inside = (page.parent / link["path"]).resolve().is_relative_to(DOCS)
    return link[0] if inside else f"](<path:{link['path']}>)"


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directives known."""
    for made in (Commands, Fields, Columns, Tables, Values, Arrays, Methods):
        app.add_directive(made.__name__.lower(), made)
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True}
