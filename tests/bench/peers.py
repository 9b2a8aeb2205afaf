"""Peers on the same network: whether their maps are ours, and what a map costs, in forwards of the network.

Each side runs in a process of its own, in one thread. In each round F, one plain forward of the batch here, the peer
and the method here are timed in turn, in seconds of the CPU, so that other work on the machine counts little; results
are medians over rounds of the ratios to F, with half their interquartile range. Peak memory is what the first call
adds to the process. Maps are compared in float64 on a smaller network; a row whose maps differ is an error.

Peers are no dependency of this project. Those that are missing are named, with the way to install them (`peers.txt`).

    PYTHONPATH=.:tests python tests/bench/peers.py --sizes ViT-S/16 --batches 1 --only torchcam
    PYTHONPATH=.:tests python tests/bench/peers.py --results tests/bench/peers.json --page docs/comparison.md
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from bench.peer_features import FEATURE_NETWORKS
from bench.peer_maps import VISION_TRANSFORMERS, Case, Comparison, Suite
from torch import Tensor

from pipeline.explain import explain

Row = dict[str, Any]
Rows = dict[str, Row]

Together = tuple[str, ...]
"""Methods here in one call."""

SUITES = (VISION_TRANSFORMERS, FEATURE_NETWORKS)
SIZES = [size for suite in SUITES for size in suite.sizes]
_BLOCK = re.compile(r"(<!-- measured by tests/bench/peers.py -->\n).*?(<!-- end of measured -->)", re.DOTALL)


class Worker:
    """One side of a comparison, in a process of its own.

    Args:
        comparison: what runs; or the methods here in one call, on timm's network.
        case: on what.
        here: whether it is the side of this project.
    """

    def __init__(self, comparison: Comparison | Together, case: Case, here: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, comparison, case, here), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str) -> Any:
        """Return what a job of ``_serve`` returns."""
        self._connection.send(what)
        return self._connection.recv()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, comparison: Comparison | Together, case: Case, here: bool) -> None:
    warnings.simplefilter("ignore")  # of the peers
    torch.set_num_threads(1)
    network: Any = None
    if not here:
        assert isinstance(comparison, Comparison)
        maps = comparison.peer_maps(case)
    else:
        together = isinstance(comparison, tuple)
        network = case.timm() if together else comparison.network(case)
        targets = case.classes[:, None] if together else comparison.targets(case)
        methods = comparison if together else [comparison.method]

        def maps() -> Tensor:
            return next(iter(explain(network, case.images, targets, methods).values()))[:, 0]

    @torch.no_grad()
    def forward() -> None:
        network(case.images)

    jobs: dict[str, Callable[[], Any]] = {
        "maps": lambda: maps().numpy(),
        "seconds": lambda: _seconds(maps),
        "forward seconds": lambda: _seconds(forward),
        "peak": lambda: _peak_bytes(maps),
        "forward peak": lambda: _peak_bytes(forward),
    }
    while True:
        connection.send(jobs[connection.recv()]())


def _seconds(work: Callable[[], object]) -> float:
    """Of the CPU."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _peak_bytes(work: Callable[[], object]) -> int:
    """Largest memory of the process during a call, less that before; Linux only."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the largest so far becomes what is used now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


@contextmanager
def workers(comparison: Comparison | Together, case: Case) -> Iterator[tuple[Worker, Worker | None]]:
    """Start the side here and that of the peer."""
    sides = (True, False) if isinstance(comparison, Comparison) else (True,)
    both = [Worker(comparison, case, here) for here in sides]
    try:
        yield both[0], both[1] if len(both) > 1 else None
    finally:
        for worker in both:
            worker.stop()


def difference(comparison: Comparison, size: str) -> float:
    """Largest difference of any cell in float64, as a fraction of the largest value."""
    with workers(comparison, Case(size, 2, torch.float64)) as (here, peer):
        assert peer is not None
        expected = torch.from_numpy(peer.ask("maps")).double()
        found = comparison.alike(torch.from_numpy(here.ask("maps"))).double()
        return float((found - expected).abs().max() / expected.abs().max())


def measure(comparison: Comparison | Together, case: Case, seconds: float) -> Row:
    """Time both sides in turn until ``seconds`` of the CPU are spent."""
    with workers(comparison, case) as (here, peer):
        sides = {"here": here} | ({"peer": peer} if peer else {})
        row: Row = {"forward_bytes": here.ask("forward peak")}
        row |= {f"{name}_bytes": side.ask("peak") for name, side in sides.items()}
        rounds: list[dict[str, float]] = []
        spent = 0.0
        while spent < seconds:
            forward = here.ask("forward seconds")
            taken = {name: side.ask("seconds") for name, side in sides.items()}
            rounds.append({name: value / forward for name, value in taken.items()} | {"forward": forward})
            spent += forward + sum(taken.values())
    row |= {"rounds": len(rounds), "forward_seconds": median(round_["forward"] for round_ in rounds)}
    for name in sides:
        row[name], row[f"{name}_spread"] = _summary([round_[name] for round_ in rounds])
    if peer:
        row["gap"], row["gap_spread"] = _summary([round_["here"] - round_["peer"] for round_ in rounds])
    return row


def _summary(values: list[float]) -> tuple[float, float]:
    """Return the median and half the interquartile range."""
    quarters = quantiles(values, method="inclusive") if len(values) > 1 else [0.0, 0.0, 0.0]
    return median(values), (quarters[2] - quarters[0]) / 2


def missing() -> list[str]:
    """List the peers that are not installed."""
    names = dict.fromkeys(comparison.peer for suite in SUITES for comparison in suite.comparisons)
    return [name for name in names if _release(name) is None]


def _release(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment() -> Row:
    """Return what the figures depend on, and when they were measured."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "torchvision")},
    }


def main() -> None:
    """Measure what is asked for, row by row, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=20, help="of the CPU, for each row (default: 20)")
    parser.add_argument("--only", nargs="+", default=[], help="these peers, or methods here; 'together' for one call")
    parser.add_argument("--results", type=Path, help="JSON file of all rows; those that it has are kept")
    parser.add_argument("--again", action="store_true", help="measure rows that the results have as well")
    parser.add_argument("--page", type=Path, help="page whose tables are written anew from the results")
    given = parser.parse_args()
    if absent := missing():
        print(f"not installed: {', '.join(absent)}; tests/bench/peers.txt says how to install them")
    results: Rows = json.loads(given.results.read_text()) if given.results and given.results.exists() else {}
    differences: dict[tuple[str, str, str], float] = {}
    for key, suite, comparison, case in _wanted(given, absent):
        if key in results and not given.again:
            continue
        row: Row = {"environment": environment()}
        if isinstance(comparison, Comparison):
            name = (comparison.peer, comparison.call, suite.compared_on or case.size)
            if name not in differences:
                differences[name] = difference(comparison, name[2])
            row |= {"release": version(comparison.peer), "difference": differences[name]}
            if not row["difference"] <= comparison.tolerance:
                raise SystemExit(
                    f"{key}: the maps differ by {row['difference']:.1e}, more than {comparison.tolerance:.0e}; "
                    "the peer computes something else, so no cost is compared"
                )
        row |= measure(comparison, case, given.seconds)
        results[key] = row
        print(key, "|", _cost(row), "|", f"difference {row.get('difference', 0):.0e}", flush=True)
        if given.results:
            given.results.write_text(json.dumps(results, indent=1) + "\n")
    if given.page:
        from bench.peer_tables import tables

        given.page.write_text(_BLOCK.sub(lambda m: m[1] + tables(SUITES, results) + m[2], given.page.read_text()))


def _wanted(given: Any, absent: list[str]) -> Iterator[tuple[str, Suite, Comparison | Together, Case]]:
    for suite, size, batch in product(SUITES, given.sizes, given.batches):
        if size not in suite.sizes:
            continue
        case = Case(size, batch, torch.float32)
        for comparison in suite.comparisons:
            named = not given.only or {comparison.peer, comparison.method.partition(":")[0]} & set(given.only)
            if named and comparison.peer not in absent and size in (comparison.sizes or suite.sizes):
                yield f"{comparison.peer} {comparison.call} {size} {batch}", suite, comparison, case
        if not given.only or "together" in given.only:
            yield f"together {size} {batch}", suite, suite.together, case


def _cost(row: Row) -> str:
    if "peer" not in row:
        return f"here {row['here']:.2f} F ± {row['here_spread']:.2f}"
    return f"peer {row['peer']:.2f} F ± {row['peer_spread']:.2f}, here {row['here']:.2f} F ± {row['here_spread']:.2f}"


if __name__ == "__main__":
    main()
