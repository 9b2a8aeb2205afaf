"""Columns of all images of the report, by which the gallery filters and sorts without loading a single shard."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.report.js_chunks import Columns
from pipeline.audit.report.js_encoding import base64_of, script
from schemas.audit import NUMBERS

SORTED = ("agreement", "entropy", "effective_area", "border", "inside")
"""Numbers of a map that the gallery sorts by."""
DISAGREEING = 0.1
"""Share of the images that are said to disagree highly: those of the least agreement."""


def joined(parts: Sequence[Columns]) -> Columns:
    """Columns of all parts, one after another; at least one."""
    return Columns(
        [key for part in parts for key in part.keys],
        {name: np.concatenate([part.images[name] for part in parts]) for name in parts[0].images},
        np.concatenate([part.flags for part in parts], axis=-1),
        np.concatenate([part.numbers for part in parts], axis=-1),
    )


def disagreement(agreement: NDArray[np.float32]) -> float | None:
    """The agreement that so many images are at or below; None where none is known."""
    known = agreement[np.isfinite(agreement)]
    return float(np.quantile(known, DISAGREEING)) if len(known) else None


def index_script(columns: Columns) -> bytes:
    """``atlas.index({count, keys, …})``: the columns of ``Columns.images``, as base64."""
    images = {name: base64_of(values) for name, values in columns.images.items()}
    return script("index", {"count": len(columns.keys), "keys": columns.keys, **images})


def method_scripts(columns: Columns) -> Iterator[tuple[str, bytes]]:
    """Name and ``atlas.method(number, {flags, …})`` of each method: uint8 [targets, n]; float32 [n] of ``SORTED``."""
    for place, (flags, numbers) in enumerate(zip(columns.flags, columns.numbers, strict=True)):
        found = {name: base64_of(numbers[NUMBERS.index(name)]) for name in SORTED}
        yield f"data/methods/{place}.js", script("method", place, {"flags": base64_of(flags), **found})
