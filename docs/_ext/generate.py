"""Write the generated parts of the reference: ``make reference``.

A page holds ``<!-- generated: KIND ARGUMENTS -->`` … ``<!-- end of generated -->``. Everything between the two is
Markdown written by ``KIND`` below from the code, so that the pages read the same on a code host and on the site.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import click
import pyarrow as pa
from docstrings import Docstring, option_texts, parse_docstring
from field_types import default_text, limits_text, type_text
from pydantic import TypeAdapter

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
BLOCK = re.compile(
    r"(?P<head><!-- generated: (?P<kind>\w+)(?P<arguments>[^>]*?) -->\n)(?:.*?\n)??<!-- end of generated -->", re.DOTALL
)


def pages() -> list[Path]:
    """List the pages with generated parts: the README and every page of the documentation."""
    return [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]


def render(text: str) -> str:
    """Write every generated part of a page anew."""

    def block(match: re.Match[str]) -> str:
        lines = KINDS[match["kind"]](*match["arguments"].split())
        body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
        return f"{match['head']}\n{body}\n\n<!-- end of generated -->"

    return BLOCK.sub(block, text)


def table(*rows: tuple[str, ...]) -> Iterator[str]:
    """Write a Markdown table.

    Args:
        rows: the header first; columns without any text below it are left out.
    """
    columns = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    for number, row in enumerate(rows):
        yield "| " + " | ".join(" ".join(row[column].split()).replace("|", "\\|") for column in columns) + " |"
        if not number:
            yield "|---" * len(columns) + "|"
    yield ""


def merge_rows(rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Merge consecutive rows that have the same last cell."""
    for meaning, group in groupby(rows, lambda row: row[-1]):
        cells = zip(*(row[:-1] for row in group), strict=True)
        yield (*(", ".join(dict.fromkeys(filter(None, cell))) for cell in cells), meaning)


def load(path: str) -> Any:
    """Return the object that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def commands() -> Iterator[str]:
    """Write every command with its help, options and examples."""
    from jobs.cli import cli

    yield from _command(click.Context(cli, info_name="vitatlas", **cli.context_settings))


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f"## {context.command_path}\n"
    yield "```text\n" + command.get_usage(context).removeprefix("Usage: ") + "\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b"):
            yield _escape(paragraph) + "\n"
            continue
        title, *block = paragraph.removeprefix("\b\n").split("\n")
        yield from [f"{title}\n", "```console", *(line.removeprefix("  ") for line in block), "```\n"]
    options = [option for option in command.params if isinstance(option, click.Option)]
    records = filter(None, (option.get_help_record(context) for option in options))
    rows = [(f"`{names}`", _escape(text)) for names, text in records]
    if rows:
        yield from table(("option", "meaning"), *rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            assert subcommand is not None
            yield from _command(click.Context(subcommand, context, info_name=name))


def _escape(text: str) -> str:
    return text.replace("<", "\\<").replace("*", "\\*")


def fields(*paths: str) -> Iterator[str]:
    """Write the fields of records; a record that is described later on the page becomes a link."""
    linked = frozenset(path.rpartition(".")[2] for path in paths)
    for path in paths:
        record = load(path)
        docstring = parse_docstring(record)
        yield f"### {record.__name__}\n\n{docstring.text}\n"
        rows = []
        for name, field in fields_of(record).items():
            annotation = type_text(field.annotation, linked) + limits_text(field.metadata)
            rows.append((f"`{name}`", annotation, default_text(field), docstring.sections["Attributes"][name]))
        yield from table(("field", "type", "default", "meaning"), *merge_rows(rows))


def fields_of(record: type[Any]) -> dict[str, Any]:
    """Return the fields of a record, or of a dataclass that pydantic validates, as pydantic describes them."""
    if hasattr(record, "model_fields"):
        return dict(record.model_fields)
    TypeAdapter(record).rebuild()
    return dict(record.__pydantic_fields__)


def columns(path: str) -> Iterator[str]:
    """Write the columns of a Parquet table, from the description in the metadata of each field."""
    yield from _columns(load(path))


def _columns(schema: pa.Schema) -> Iterator[str]:
    rows = [
        (f"`{field.name}`", _column_type(field), "yes" if field.nullable else "", describe(field)) for field in schema
    ]
    yield from table(("column", "type", "null", "meaning"), *merge_rows(rows))


def describe(field: pa.Field) -> str:
    """Return the description of a column; empty if it has none."""
    return (field.metadata or {}).get(b"description", b"").decode()


def _column_type(field: pa.Field) -> str:
    name = str(field.type).replace("dictionary<values=string, indices=int32, ordered=0>", "category")
    return name.replace("<item: ", "<").replace("<element: ", "<")


def tables() -> Iterator[str]:
    """Write every table of an audit."""
    from schemas.audit_tables import TABLES

    for description in TABLES:
        yield f"## {description.name}\n\n`{description.files}`: one row per {description.row}.\n"
        yield from _columns(description.schema)


def values(path: str) -> Iterator[str]:
    """Write the values of an enumeration."""
    enumeration: type[StrEnum] = load(path)
    meanings = parse_docstring(enumeration).sections["Attributes"]
    rows = ((f"`{value}`", meanings[value.name]) for value in enumeration)
    yield from table(("status", "meaning"), *merge_rows(rows))


def arrays() -> Iterator[str]:
    """Write the arrays of one method in ``maps.zarr``."""
    from schemas.layout import arrays as arrays_of

    rows = [
        (f"`{name}`", f"({', '.join(spec.dims)})", spec.dtype, str(spec.empty))
        for name, spec in arrays_of("<method>", ["<extra output>"]).items()
    ]
    yield from table(("array", "dimensions", "type", "without a map"), *rows)


def method_groups() -> Iterator[str]:
    """Write the names of all methods in groups, for the README."""
    from pipeline.explain.method_table import groups

    for title, names in groups().items():
        yield f"- **{title}:** {', '.join(f'`{name}`' for name in names)}"


def method_table() -> Iterator[str]:
    """Write all methods, one row each."""
    from pipeline.explain.method_table import markdown

    yield markdown()


def layouts() -> Iterator[str]:
    """Write the layouts of weights that are converted, one row each."""
    from pipeline.explain.checkpoint.layouts import LAYOUTS

    rows = [
        (
            layout.name,
            f"{layout.read_out}, {layout.backbone_read_out} without a classifier"
            if layout.backbone_read_out
            else layout.read_out or "by the tensors",
            f"{layout.epsilon:g}" if layout.epsilon else "as named",
            layout.activation or "as named",
            f"`{layout.architecture}`" if layout.architecture else "",
        )
        for layout in {layout.name: layout for layout in LAYOUTS}.values()
    ]
    yield from table(("Layout", "Read-out", "Epsilon of the norms", "Activation", "Network of timm"), *rows)


def methods() -> Iterator[str]:
    """Write every method with its definition, options, cost and the networks that it is not defined for."""
    from pipeline.explain import methods as registry
    from pipeline.explain.method import NEEDS

    anatomies = _anatomies()
    for name, method in registry.items():
        docstring = parse_docstring(method)
        yield f"## {name}\n\n{docstring.text}\n"
        yield from _options(method, docstring)
        reasons = {network: reason for network, anatomy in anatomies.items() if (reason := method().refusal(anatomy))}
        refused = "; ".join(f"{network}: {reason}" for network, reason in reasons.items())
        if len(reasons) == len(anatomies) and len(set(reasons.values())) == 1:
            refused = next(iter(reasons.values()))
        yield from table(
            ("property", "value"),
            ("map of", "the class" if method.class_specific else "the image, the same for every class"),
            ("cost in forwards", method.cost),
            ("needs of a network", "; ".join(NEEDS[each] for each in method().requires)),
            ("in a run that names no methods", "yes" if method.default else "no"),
            ("refused", refused or "never"),
            ("source", method.paper),
        )


def _options(method: Any, docstring: Docstring) -> Iterator[str]:
    hints = get_type_hints(method)
    described = option_texts(method)
    rows = [
        (
            f"`{field.name}`",
            type_text(hints[field.name]),
            "none" if field.default in ("", None) else f"`{field.default}`",
            described[field.name],
        )
        for field in method.option_fields()
    ]
    if rows:
        yield from table(("option", "type", "default", "meaning"), *rows)
    for section, label in (("Presets", "Preset"), ("Extra outputs", "Extra output")):
        for name, text in docstring.sections.get(section, {}).items():
            yield f"{label} `{name}`: {text}\n"


def _anatomies() -> dict[str, Any]:
    """Return the anatomy of a plain ViT with each kind of read-out."""
    from pipeline.explain import describe as describe_model
    from pipeline.explain.load import create_model

    anatomy = describe_model(create_model("test_vit", num_classes=10))
    readouts = {"class token": "token", "mean read-out": "mean", "attention pooler": "pool"}
    return {
        name: replace(anatomy, readout=readout, has_linear_readout=readout == "mean")
        for name, readout in readouts.items()
    }


def api(*paths: str) -> Iterator[str]:
    """Write signature and docstring of every name in a module's ``__all__``, or of the object of a dotted path."""
    for path in paths:
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError:
            yield from _documented(path, load(path))
            continue
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or (inspect.isclass(value) and not _is_method(value)):
                yield from _documented(name, value)


def _is_method(value: type) -> bool:
    """Whether a class is an attribution method, which the page of methods describes."""
    from pipeline.explain import Method

    return issubclass(value, Method) and value is not Method


def _documented(name: str, value: Any, level: int = 3) -> Iterator[str]:
    short = name.rpartition(".")[2]
    if inspect.isclass(value):
        yield f"{'#' * level} {name}\n"
    else:
        yield f"{'#' * level} {name}\n\n```text\n{_signature(short, value)}\n```\n"
    docstring = parse_docstring(value)
    yield docstring.text + "\n"
    for section, entries in docstring.sections.items():
        if "" in entries:
            yield f"**{section}:** {entries['']}\n"
        elif entries:
            yield f"**{section}:**\n"
            yield from (f"- `{entry}`: {text}" for entry, text in entries.items())
            yield ""
    if inspect.isclass(value) and level == 3:
        for member, function in vars(value).items():
            function = getattr(function, "__func__", getattr(function, "fget", getattr(function, "func", function)))
            if not member.startswith("_") and inspect.isfunction(function) and function.__doc__:
                yield from _documented(f"{short}.{member}", function, level + 1)


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
    text = str(signature.replace(parameters=parameters)).replace("'", "")
    text = re.sub(r"<function \S*<lambda>[^>]*>", "…", re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text))
    if len(name + text) <= 100:
        return name + text
    inner = [re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", str(parameter)).replace("'", "") for parameter in parameters]
    inner = [re.sub(r"<function \S*<lambda>[^>]*>", "…", parameter) for parameter in inner]
    return f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in inner) + ")" + text[text.rindex(")") + 1 :]


def signals() -> Iterator[str]:
    """Write the signals of ``vitatlas rank``: what is high, what the network must recognise, and the formula."""
    from pipeline.rank.registry import SIGNALS

    rows = []
    for signal in SIGNALS:
        checked = "–" if signal.is_check else signal.checked
        rows.append((f"`{signal.name}`", signal.title, checked))
    yield from table(("signal", "high for a good method", "valid if the network recognises"), *rows)
    for signal in SIGNALS:
        yield f"**`{signal.name}`** {parse_docstring(type(signal)).text}\n"


KINDS: dict[str, Callable[..., Iterator[str]]] = {
    kind.__name__: kind
    for kind in (
        commands,
        fields,
        columns,
        tables,
        values,
        arrays,
        method_groups,
        method_table,
        layouts,
        methods,
        signals,
        api,
    )
}

if __name__ == "__main__":
    for page in pages():
        before = page.read_text("utf-8")
        if (after := render(before)) != before:
            page.write_text(after, "utf-8")
            print(f"written: {page.relative_to(ROOT)}")
