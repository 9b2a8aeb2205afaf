"""PNG files that hold a mask. Headers are read at once, pixels when they are asked for."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from pipeline.read.decode import MAX_PIXELS
from pipeline.truth.csv_lines import contents
from schemas.base import sha256
from schemas.errors import UsageError

MODES = ("1", "L", "P", "RGB")


@dataclass(frozen=True)
class Png:
    """A PNG on a disk.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        mode: of Pillow, one of ``MODES``.
        width, height: in pixels.
    """

    path: str
    sha256: str
    mode: str
    width: int
    height: int

    @classmethod
    def open(cls, file: Path) -> Self:
        """Read the header.

        Raises:
            UsageError: it is missing, no PNG, too large, or of a mode that no mask has.
        """
        data = contents(file)
        with _reading(file):
            image = PngImageFile(io.BytesIO(data))  # not Image.open, which takes other kinds for a PNG
        if image.width * image.height > MAX_PIXELS:
            raise UsageError(f"{file}: {image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
        if image.mode not in MODES:
            raise UsageError(f"{file}: is a PNG of mode {image.mode}; it can be indexed, grey, RGB or of one bit")
        return cls(str(file), sha256(data), image.mode, image.width, image.height)

    def values(self) -> NDArray[Any]:
        """What is stored: bool or uint8 [height, width], indices of an indexed one; uint8 [height, width, 3] of RGB.

        Raises:
            UsageError: it cannot be decoded, or is not what it was.
        """
        return _decoded(self, None)

    def grey(self) -> NDArray[np.uint8]:
        """What it looks like in grey: uint8 [height, width].

        Raises:
            UsageError: see ``values``.
        """
        return _decoded(self, "L")


@lru_cache(maxsize=4)
def _decoded(png: Png, mode: str | None) -> NDArray[Any]:
    data = contents(Path(png.path))
    if sha256(data) != png.sha256:
        raise UsageError(f"{png.path}: was written over since its folder was read; begin again")
    with _reading(png.path):
        image = PngImageFile(io.BytesIO(data))
        values = np.asarray(image.convert(mode) if mode else image)
    values.setflags(write=False)
    return values


@contextmanager
def _reading(path: object) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # the machine's fault: limits are looked at before
        raise
    except Exception as error:  # Pillow raises whatever it is that it trips over
        raise UsageError(f"{path}: cannot be read as a PNG ({error})") from None
