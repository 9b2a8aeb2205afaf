"""The tables of `peers.py`: what maps cost beside peers, and their memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from bench.peer_maps import Comparison, Suite

Row = dict[str, Any]
_BATCHES = (1, 8)
_MEMORY = "Peak memory that a call adds to the process, in MiB, peer → here; a plain forward last:"


def tables(suites: Iterable[Suite], results: dict[str, Row]) -> str:
    """Write Markdown: how it was measured; costs and memory, a table for each suite."""
    measured = [suite for suite in suites if any(any(_rows(suite, each, results)) for each in suite.comparisons)]
    costs = [line for suite in measured for line in _costs(suite, results)]
    memory = [line for suite in measured for line in _memory(suite, results)]
    return "\n" + "\n".join([*_header(results), *costs, _MEMORY, "", *memory]) + "\n"


def _columns(suite: Suite) -> list[tuple[str, int]]:
    return [(size, batch) for size in suite.sizes for batch in _BATCHES]


def _rows(suite: Suite, comparison: Comparison, results: dict[str, Row]) -> list[Row | None]:
    name = f"{comparison.peer} {comparison.call}"
    return [results.get(f"{name} {size} {batch}") for size, batch in _columns(suite)]


def _together(suite: Suite, results: dict[str, Row]) -> list[Row | None]:
    return [results.get(f"together {size} {batch}") for size, batch in _columns(suite)]


def _header(results: dict[str, Row]) -> Iterator[str]:
    places = Counter(_place(row["environment"]) for row in results.values())
    loads = [row["environment"]["load"] for row in results.values()]
    rounds = [row["rounds"] for row in results.values()]
    dates = sorted({row["environment"]["date"] for row in results.values()})
    yield (
        f"Measured on {' and '.join(places)}; {' to '.join(dict.fromkeys((dates[0], dates[-1])))}; load of the machine "
        f"{min(loads):.0f} to {max(loads):.0f}, rounds {min(rounds)} to {max(rounds)}, one thread, seconds of the CPU."
    )
    yield ""


def _place(environment: Row) -> str:
    names = ("python", "torch", "timm", "torchvision")
    versions = ", ".join(f"{name} {environment[name]}" for name in names)
    return f"{environment['cores']} cores of {environment['cpu']}, {versions}"


def _costs(suite: Suite, results: dict[str, Row]) -> Iterator[str]:
    heads = [f"{size}, {batch}" for size, batch in _columns(suite)]
    yield "| peer | its call | method here | " + " | ".join(heads) + " | difference | |"
    yield "|---" * (len(heads) + 5) + "|"
    for comparison in suite.comparisons:
        rows = _rows(suite, comparison, results)
        measured = [row for row in rows if row]
        if not measured:
            continue
        cells = [_cell(row) for row in rows]
        behind = [
            f"{head} by {_with_spread(row, 'gap')}"
            for head, row in zip(heads, rows, strict=True)
            if row and row["gap"] > 0
        ]
        note = f"behind at {'; '.join(behind)}" if behind else ""
        worst = max(row["difference"] for row in measured)
        yield (
            f"| {comparison.peer} {measured[0]['release']} | {comparison.call} | `{comparison.method}` | "
            f"{' | '.join(cells)} | {worst:.0e} | {note} |"
        )
    rows = _together(suite, results)
    if any(rows):
        yield f"| | | {len(suite.together)} methods in one call | {' | '.join(_cell(row) for row in rows)} | | |"
    yield ""


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    here = f"**{_with_spread(row, 'here')}**"
    return f"{_with_spread(row, 'peer')} → {here}" if "peer" in row else here


def _with_spread(row: Row, name: str) -> str:
    """Write a figure; fewer than three rounds say nothing of its spread."""
    spread = f" ± {row[f'{name}_spread']:.2f}" if row["rounds"] > 2 else ""
    return f"{row[name]:.2f}{spread}"


def _memory(suite: Suite, results: dict[str, Row]) -> Iterator[str]:
    columns = _columns(suite)
    yield "| peer | its call | " + " | ".join(f"{size}, {batch}" for size, batch in columns) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    for comparison in suite.comparisons:
        rows = _rows(suite, comparison, results)
        if any(rows):
            cells = (f"{_mib(row['peer_bytes'])} → {_mib(row['here_bytes'])}" if row else "–" for row in rows)
            yield f"| {comparison.peer} | {comparison.call} | {' | '.join(cells)} |"
    together = _together(suite, results)
    calls = ((f"{len(suite.together)} methods in one call", "here_bytes"), ("plain forward", "forward_bytes"))
    for call, field in calls:
        if any(together):
            yield f"| | {call} | {' | '.join(_mib(row[field]) if row else '–' for row in together)} |"
    yield ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"
