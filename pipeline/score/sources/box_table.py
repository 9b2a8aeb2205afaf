"""Boxes of a localizer in a table: ``image_id,x0,y0,x1,y1`` and, where an image has several, ``score``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from pipeline.read.sample_keys import sample_key
from pipeline.score.sources.file_source import FileSource
from pipeline.score.sources.source import Prediction
from pipeline.truth.box_truth import refuse_fractions
from pipeline.truth.csv_boxes import HEADER
from pipeline.truth.csv_lines import parse_floats, parse_lines
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import KeySeparator

Box = tuple[float, ...]
"""x0, y0, x1, y1 in pixels of the image, ends inclusive."""
_COLUMNS = (HEADER, [*HEADER, "score"])


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxFile(FileSource[Box]):
    """One box for each image, the one with the highest score."""

    has_maps: bool = False

    @classmethod
    def open(cls, path: Path, name: str, separator: KeySeparator = "first-dot") -> Self:
        """Read a table.

        Args:
            path: of the table; its first line names the columns.
            name: of the source in tables.
            separator: dot of a file name that ends the key of its image.

        Raises:
            UsageError: it has other columns, or a number cannot be used; an image has several boxes without scores.
        """
        data = read_bytes(path)
        lines = parse_lines(data, path)
        header = lines[0].columns if lines else []
        if header not in _COLUMNS:
            columns = ",".join(_COLUMNS[1])
            raise UsageError(f"{path}: its first line is not {columns}, with or without the score; write that header")
        rows = lines[1:]
        for row in rows:
            if len(row.columns) != len(header):
                raise UsageError(f"{path}, line {row.number}: has {len(row.columns)} columns, not {','.join(header)}")

        def describe(index: int) -> str:
            return f"{path}, line {rows[index].number}: the box of {rows[index].columns[0]}"

        numbers = parse_floats([row.columns[1:] for row in rows], len(header) - 1, describe)
        refuse_fractions(numbers[:, :4], describe)
        boxes: dict[str, list[tuple[Box, float | None]]] = {}
        for row, values in zip(rows, numbers.tolist(), strict=True):
            scored = (tuple(values[:4]), values[4] if len(values) > 4 else None)
            boxes.setdefault(sample_key(row.columns[0], separator), []).append(scored)
        best = {key: best_box(candidates, f"{path}: {key}") for key, candidates in boxes.items()}
        return cls.of_entries(str(path), name, best, sha256(data))

    def read(self, entry: Box) -> Prediction:
        return np.array(entry)


def best_box(candidates: list[tuple[Box, float | None]], where: str) -> Box:
    """Return the box with the highest score, the first one on a tie.

    Args:
        candidates: boxes of one image, each with its score.
        where: names the image in an error.

    Raises:
        UsageError: there are several, and one has no score.
    """
    if len(candidates) == 1:
        return candidates[0][0]
    scores = [score for _, score in candidates if score is not None]
    if len(scores) < len(candidates):
        raise UsageError(f"{where} has {len(candidates)} boxes and no score that says which counts; add scores")
    return candidates[int(np.argmax(scores))][0]
