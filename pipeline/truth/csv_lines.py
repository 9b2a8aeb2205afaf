"""Reading of files of comma-separated lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class CsvLine:
    """A line that is not blank.

    Attributes:
        number: of the line in its file, from 1.
        columns: texts between the commas, as written.
    """

    number: int
    columns: list[str]


def parse_lines(data: bytes, file: Path) -> list[CsvLine]:
    """Split a file into lines. The last one may lack a newline, as in many files of wsolevaluation.

    Args:
        data: content of the file.
        file: its path, for errors.

    Raises:
        UsageError: it is not text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not text in UTF-8; convert it") from None
    lines = enumerate((line.strip() for line in text.split("\n")), 1)
    return [CsvLine(number, line.split(",")) for number, line in lines if line]


def parse_floats(rows: Sequence[Sequence[str]], width: int, describe_row: Callable[[int], str]) -> NDArray[np.float64]:
    """Return the numbers in columns of text as float [n, width].

    Args:
        rows: texts, each of ``width`` columns.
        width: number of columns.
        describe_row: returns the text that names the i-th row in an error.

    Raises:
        UsageError: a text is not a finite number.
    """
    try:
        values = np.array(rows, np.float64).reshape(-1, width)
    except ValueError:
        values = np.array([[_parse_float(text) for text in row] for row in rows])
    faulty = ~np.isfinite(values).all(1)
    if faulty.any():
        index = int(faulty.argmax())
        raise UsageError(
            f"{describe_row(index)} is {','.join(rows[index])[:60]}, which are not all numbers; correct it"
        )
    return values


def parse_pixels(text: str) -> int:
    """Return the number of pixels that a text gives; 0 if it is not such a number."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
