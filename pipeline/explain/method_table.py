"""Tables of all methods, for the command line and the documentation."""

import re
from typing import get_args, get_type_hints

from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.description import describe
from pipeline.explain.load import create_untrained
from pipeline.explain.method import Method
from pipeline.explain.network import Network
from pipeline.explain.registry import methods


def method_rows(model: str | None = None, head: str | None = None) -> list[dict[str, str]]:
    """Return a row for each method: name, kind, options, summary, cost, source.

    Args:
        model: a timm name; adds the column ``applies``: ``yes``, perhaps with options, or the reason why not.
        head: its head file. Without one it gets a linear classifier, which many timm models lack.

    Raises:
        UsageError: timm has no such model, or there is no such head file.
        UnsupportedModel: no method applies to it, or the head is for another one.
    """
    anatomy = describe(create_untrained(model, head, None if head else 10)) if model else None
    rows = []
    for base_name, method in methods.items():
        row = {
            "method": base_name,
            "kind": method.kind,
            "map of": "class" if method.class_specific else "image",
            "cost": method.cost,
            "options": "; ".join(_options(method)) or "–",
            "what it shows": (method.__doc__ or "").splitlines()[0],
            "from": method.paper,
        }
        if anatomy is not None:
            row["applies"] = _applies(method, anatomy)
        rows.append(row)
    return rows


def _applies(method: type[Method], anatomy: Network) -> str:
    """Return ``yes``, the options with which a method is defined for a network, or the reason why it is not."""
    default = method.default_for(anatomy)
    if reason := default.refusal(anatomy):
        return reason
    options = ":".join(f"{name}={value}" for name, value in default.options(changed=True).items())
    return f"yes, as {options}" if options else "yes"


def short_cell(row: dict[str, str], column: str) -> str:
    """Return a cell of a table that fits into 80 columns: costs without remarks, sources as authors and year.

    Args:
        row: of ``method_rows``.
        column: its key, or ``source``.
    """
    if column == "cost":
        return re.split("[;,]", row["cost"])[0]
    if column != "source":
        return row[column]
    source = re.search(r"(\w+ (?:& \w+|et al\.)).*?\b((?:19|20)\d\d)\b", row["from"])
    return f"{source[1]} {source[2]}" if source else row["kind"]


def _options(method: type[Method]) -> list[str]:
    """List each option with its values, the default first; then the presets. Of options of a base only the name."""
    types, shared = get_type_hints(method), [option.name for option in method.option_fields() if option.kw_only]
    options = []
    for name, default in method().options().items():
        if name in shared:
            options.append(name)
            continue
        values = [default, *(value for value in get_args(types[name]) if value != default)]
        if types[name] is bool:
            values = [default, not default]
        options.append(f"{name}=" + "|".join(str(value).lower() for value in values))
    return [*options, *method.presets]


def markdown() -> str:
    """Write the table of methods as Markdown, for the reference."""
    lines = ["| method | map of | what it shows | options | cost, in forwards | from |", "|---|---|---|---|---|---|"]
    for row in method_rows():
        options = row["options"].replace("|", ", ")  # a bar would end the cell
        cells = [f"`{row['method']}`", row["map of"], row["what it shows"], options, row["cost"], row["from"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def groups() -> dict[str, list[str]]:
    """Group the names of all methods by what they are for, as the README lists them."""
    grouped: dict[str, list[str]] = {
        "For masks (one map for each class)": [],
        "For audits (one map for the image)": [],
        "Many forwards (only if named)": [],
        "Need training": [],
        "Controls": [],
    }
    masks, audits, slow, trained, controls = grouped.values()
    for name, method in methods.items():
        if method.kind == "control":
            controls.append(name)
        elif issubclass(method, LearnedMethod):
            trained.append(name)
        elif not method.default:
            slow.append(name)
        else:
            (masks if method.class_specific else audits).append(name)
    return grouped
