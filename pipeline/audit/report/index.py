"""Columns of all images of the report, by which the gallery filters and sorts without loading a single shard."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.report.js_chunks import ImageColumns
from pipeline.audit.report.js_encoding import to_base64, to_script
from schemas.audit_tables import MAP_STATISTICS

SORTABLE_STATISTICS = ("agreement", "entropy", "effective_area", "border_mass", "object_mass")
"""Numbers of a map that the gallery sorts by."""
DISAGREEMENT_SHARE = 0.1
"""Share of the images that are said to disagree highly: those of the least agreement."""


def concat_columns(parts: Sequence[ImageColumns]) -> ImageColumns:
    """Columns of all parts, one after another; at least one."""
    return ImageColumns(
        [key for part in parts for key in part.keys],
        {name: np.concatenate([part.images[name] for part in parts]) for name in parts[0].images},
        np.concatenate([part.flags for part in parts], axis=-1),
        np.concatenate([part.numbers for part in parts], axis=-1),
    )


def disagreement_threshold(agreement: NDArray[np.float32]) -> float | None:
    """The agreement that so many images are at or below; None where none is known."""
    known = agreement[np.isfinite(agreement)]
    return float(np.quantile(known, DISAGREEMENT_SHARE)) if len(known) else None


def index_script(columns: ImageColumns) -> bytes:
    """``atlas.index({count, keys, …})``: the columns of ``Columns.images``, as base64."""
    images = {name: to_base64(values) for name, values in columns.images.items()}
    return to_script("index", {"count": len(columns.keys), "keys": columns.keys, **images})


def method_scripts(columns: ImageColumns) -> Iterator[tuple[str, bytes]]:
    """Name and ``atlas.method(number, {flags, …})`` of each method: uint8 [targets, n]; float32 [n] of ``SORTABLE_STATISTICS``."""
    for place, (flags, numbers) in enumerate(zip(columns.flags, columns.numbers, strict=True)):
        found = {name: to_base64(numbers[list(MAP_STATISTICS).index(name)]) for name in SORTABLE_STATISTICS}
        yield f"data/methods/{place}.js", to_script("method", place, {"flags": to_base64(flags), **found})
