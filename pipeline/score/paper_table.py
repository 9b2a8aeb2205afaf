"""Tables of scores as a paper prints them: LaTeX and Markdown, the best of each column in bold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.utils.latex import escape_latex
from pipeline.utils.markdown import escape_markdown

Row = Mapping[str, Any]
"""Row of a table of scores: ``source``, ``method``, ``kind``, ``network``, scores in %, and ``interval``."""


@dataclass(frozen=True)
class PaperColumn:
    """A column of scores.

    Attributes:
        title: of the column.
        name: of the score, in the rows.
        best: ``max`` or ``min`` of the values that it has for several methods.
        of_network: all methods of a network have the same value, so only networks are compared.
    """

    title: str
    name: str
    best: Callable[[list[float]], float] = max
    of_network: bool = False


@dataclass(frozen=True)
class _Cell:
    value: str
    interval: tuple[str, str] | None
    is_bold: bool


def format_score(value: float) -> str:
    """Return a score in % as tables print it."""
    return f"{value:.1f}"


def latex_table(rows: Sequence[Row], columns: Sequence[PaperColumn]) -> str:
    """Return a ``tabular``, which needs the package booktabs and no other.

    Methods come first, controls, marked by an asterisk, after a rule. A score has the ends of its interval as its sub-
    and superscript.

    Args:
        rows: of the table, in order.
        columns: of these, those that no row has are left out.
    """
    columns, names = present_columns(columns, rows), _name_columns(rows)
    titles = [*map(str.capitalize, names), *(column.title for column in columns)]
    lines = [rf"\begin{{tabular}}{{@{{}}{'l' * len(names)}{'r' * len(columns)}@{{}}}}", r"\toprule"]
    lines.append(_latex_row(map(escape_latex, titles)))
    for group in _groups(rows):
        lines.append(r"\midrule")
        for row in group:
            texts = [escape_latex(str(row[name] or "")) for name in names]
            texts[-1] += r"$^{*}$" if row["kind"] == "control" else ""
            lines.append(_latex_row([*texts, *(_latex_cell(cell) for cell in _cells(row, columns, rows))]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: _Cell | None) -> str:
    if cell is None:
        return "--"
    value = rf"\textbf{{{cell.value}}}" if cell.is_bold else cell.value
    return value if cell.interval is None else "{}$_{{{}}}^{{{}}}$".format(value, *cell.interval)


def markdown_table(rows: Sequence[Row], columns: Sequence[PaperColumn]) -> str:
    """Return a table in Markdown, as ``latex_table``; a score has its interval in parentheses.

    Args:
        rows: of the table, in order.
        columns: of these, those that no row has are left out.
    """
    columns, names = present_columns(columns, rows), _name_columns(rows)
    titles = [*map(str.capitalize, names), *(column.title for column in columns)]
    lines = [
        _markdown_row(map(escape_markdown, titles)),
        _markdown_row([*["---"] * len(names), *["--:"] * len(columns)]),
    ]
    for group in _groups(rows):
        for row in group:
            texts = [escape_markdown(row[name] or "") for name in names]
            texts[-1] += r" \*" if row["kind"] == "control" else ""
            lines.append(_markdown_row([*texts, *(_markdown_cell(cell) for cell in _cells(row, columns, rows))]))
    return "\n".join([*lines, ""])


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: _Cell | None) -> str:
    if cell is None:
        return "–"
    value = f"**{cell.value}**" if cell.is_bold else cell.value
    return value if cell.interval is None else f"{value} ({'–'.join(cell.interval)})"


def present_columns(columns: Sequence[PaperColumn], rows: Sequence[Row]) -> list[PaperColumn]:
    """Return the columns that have a score in at least one row."""
    return [column for column in columns if any(row[column.name] is not None for row in rows)]


def _name_columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns that tell the rows apart; the method is the last."""
    return [*(["source"] if len({row["source"] for row in rows} - {None}) > 1 else []), "method"]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    methods, controls = (
        [row for row in rows if (row["kind"] == "control") == is_control] for is_control in (False, True)
    )
    return [group for group in (methods, controls) if group]


def _cells(row: Row, columns: Sequence[PaperColumn], rows: Sequence[Row]) -> list[_Cell | None]:
    return [_cell(row, column, rows) for column in columns]


def _cell(row: Row, column: PaperColumn, rows: Sequence[Row]) -> _Cell | None:
    value, interval = row[column.name], row["interval"][column.name]
    if value is None:
        return None
    ends = None if interval is None else (format_score(interval[0]), format_score(interval[1]))
    return _Cell(format_score(value), ends, row["kind"] == "method" and format_score(value) == _best(column, rows))


def _best(column: PaperColumn, rows: Sequence[Row]) -> str | None:
    """Return the best score of the methods as it is printed: what readers cannot tell apart is a tie."""
    scored = [row for row in rows if row["kind"] == "method" and row[column.name] is not None]
    if column.of_network and len({row["network"] for row in scored}) < 2:
        return None
    values = [row[column.name] for row in scored]
    return format_score(column.best(values)) if values else None
