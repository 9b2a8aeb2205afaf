"""Files of comma-separated lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import UsageError


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank.

    Attributes:
        number: in its file, from 1.
        columns: as they are written.
    """

    number: int
    columns: list[str]


def contents(file: Path) -> bytes:
    """The bytes of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


def lines(data: bytes, file: Path) -> list[Line]:
    """Lines of a file; its last may lack an end, as many of wsolevaluation's do.

    Raises:
        UsageError: it is not text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not text in UTF-8") from None
    every = enumerate((line.strip() for line in text.split("\n")), 1)
    return [Line(number, line.split(",")) for number, line in every if line]


def numbers(rows: Sequence[Sequence[str]], width: int, where: Callable[[int], str]) -> NDArray[np.float64]:
    """Numbers [n, width] that are written in columns.

    Args:
        where: of each row, for what is wrong with it.

    Raises:
        UsageError: something is no number, or not a finite one.
    """
    try:
        values = np.array(rows, np.float64).reshape(-1, width)
    except ValueError:
        values = np.array([[_number(each) for each in row] for row in rows])
    wrong = ~np.isfinite(values).all(1)
    if wrong.any():
        place = int(wrong.argmax())
        raise UsageError(f"{where(place)} is {','.join(rows[place])[:60]}, which are not all numbers")
    return values


def pixels(text: str) -> int:
    """How many pixels a text says; 0 where it says none."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
