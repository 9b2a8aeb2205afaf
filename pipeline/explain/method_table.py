"""The table of methods, for the command line and the docs.

    python -m pipeline.explain.method_table README.md

writes it anew into a page that has its two marks.
"""

import sys
from pathlib import Path
from typing import get_args, get_type_hints

from pipeline.explain.anatomy import describe
from pipeline.explain.load import create
from pipeline.explain.method import Method
from pipeline.explain.registry import methods


def catalogue(model: str | None = None) -> list[dict[str, str]]:
    """A row for each method: name, options, summary, cost, source.

    Args:
        model: a timm name; adds a column that says whether the method applies, or why not.

    Raises:
        UsageError: timm has no such model.
        UnsupportedModel: no method applies to it.
    """
    # With a classifier, which the network may yet get: many of timm come without.
    anatomy = describe(create(model, num_classes=10)) if model else None
    rows = []
    for base, method in methods.items():
        row = {
            "method": base,
            "kind": method.kind,
            "map of": "class" if method.by_class else "image",
            "cost": method.cost,
            "options": "; ".join(_options(method)) or "–",
            "what it shows": (method.__doc__ or "").splitlines()[0],
            "from": method.paper,
        }
        if anatomy is not None:
            row["applies"] = method().unsupported(anatomy) or "yes"
        rows.append(row)
    return rows


def _options(method: type[Method]) -> list[str]:
    """Each option with its values, the default first; then presets."""
    kinds = get_type_hints(method)
    described = []
    for name, default in method().options().items():
        values = [default, *(value for value in get_args(kinds[name]) if value != default)]
        if kinds[name] is bool:
            values = [default, not default]
        described.append(f"{name}=" + "|".join(str(value).lower() for value in values))
    return [*described, *method.presets]


def markdown() -> str:
    """The table of methods for the README, with its two marks. A test holds the README to it."""
    lines = [
        BEGIN,
        "| method | map of | what it shows | options | cost, in forwards | from |",
        "|---|---|---|---|---|---|",
    ]
    for row in catalogue():
        options = row["options"].replace("|", ", ")  # a bar would end the cell
        cells = [f"`{row['method']}`", row["map of"], row["what it shows"], options, row["cost"], row["from"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, END])


BEGIN, END = "<!-- methods: made from the registry -->", "<!-- end of methods -->"


def renew(page: Path) -> None:
    """Write the table anew into a page.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text()
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    page.write_text(text[:begin] + markdown() + text[end:])


if __name__ == "__main__":
    import pipeline.explain.methods  # noqa: F401 – every method registers itself

    for name in sys.argv[1:]:
        renew(Path(name))
