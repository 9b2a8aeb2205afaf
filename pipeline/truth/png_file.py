"""PNG files that hold a mask. Headers are read at once, pixels on demand."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from pipeline.read.decode import MAX_PIXELS
from pipeline.utils.local_file import read_bytes
from schemas.base import sha256
from schemas.errors import UsageError

MODES = ("1", "L", "P", "RGB", "LA", "RGBA", "I;16", "I")


@dataclass(frozen=True)
class PngFile:
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
            UsageError: the file is missing, not a PNG, too large, or of a mode that masks do not have.
        """
        data = read_bytes(file)
        with open_png(data, file) as image:
            if image.mode not in MODES:
                raise UsageError(f"{file}: is a PNG of mode {image.mode}; write it as indexed, gray, RGB or one bit")
            return cls(str(file), sha256(data), image.mode, image.width, image.height)

    def values(self) -> NDArray[Any]:
        """Return the stored values: bool, uint8 or int32 [height, width], or uint8 [height, width, 3] for RGB.

        Values of an indexed PNG are its indices. An alpha channel is left out.

        Raises:
            UsageError: it cannot be decoded, has changed since it was opened, or has its mask in the alpha channel.
        """
        values = _decode(self, None)
        if self.mode not in ("LA", "RGBA"):
            return values.astype(np.int32) if self.mode.startswith("I") else values
        colors, alpha = values[..., :-1], values[..., -1]
        if (alpha != alpha.flat[0]).any() and (colors == colors[0, 0]).all():
            raise UsageError(f"{self.path}: has its mask in the alpha channel; write it as gray or one bit")
        return colors[..., 0] if self.mode == "LA" else colors

    def palette(self) -> Sequence[int]:
        """Return red, green and blue of each index in turn, 0 to 255; nothing of a PNG without a palette."""
        with open_png(_read_again(self), self.path) as image:
            return image.getpalette() or ()

    def gray(self) -> NDArray[np.uint8]:
        """Return the image converted to gray: uint8 [height, width]. Of 16 bits the upper 8 are taken, as OpenCV does.

        Raises:
            UsageError: see ``values``.
        """
        if self.mode.startswith("I"):
            return (self.values() >> 8).astype(np.uint8)
        return _decode(self, "L")


def may_be_gray(palette: Sequence[int], indices: NDArray[Any]) -> bool:
    """Return whether an indexed PNG is black and white, and shows background or ignored pixels in white.

    It may be a mask of a white object that was saved with a palette, in which that object has the index 255, or 0.

    Args:
        palette: as ``PngFile.palette`` returns it.
        indices: of the pixels, [height, width]; 0 is background, 255 is ignored.
    """
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette) // 3] = np.reshape(palette, (-1, 3))
    used = np.unique(indices)
    white, black = (set(used[(colors[used] == shade).all(1)].tolist()) for shade in (255, 0))
    return len(white) + len(black) == len(used) and not white.isdisjoint({0, 255})


@lru_cache(maxsize=4)
def _decode(png: PngFile, mode: str | None) -> NDArray[Any]:
    with open_png(_read_again(png), png.path) as image:
        values = np.asarray(image.convert(mode) if mode else image)
    values.setflags(write=False)
    return values


def _read_again(png: PngFile) -> bytes:
    data = read_bytes(Path(png.path))
    if sha256(data) != png.sha256:
        raise UsageError(f"{png.path}: was overwritten after its folder was read; run the command again")
    return data


@contextmanager
def open_png(data: bytes, name: object) -> Iterator[PngImageFile]:
    """Yield an image whose header is read, and whose pixels can be decoded until the end of the block.

    Args:
        data: content of a file.
        name: of the file, for errors.

    Raises:
        UsageError: it is not a PNG, has more than ``MAX_PIXELS`` pixels, or what the block decodes is damaged.
    """
    try:
        image = PngImageFile(io.BytesIO(data))  # not Image.open, which accepts other formats
        if image.width * image.height > MAX_PIXELS:
            raise UsageError(f"{name}: {image.width}×{image.height} pixels are more than {MAX_PIXELS:,}; reduce it")
        yield image
    except (UsageError, MemoryError):  # the latter is not the file's fault, whose size is checked
        raise
    except Exception as error:  # Pillow raises many types on damaged files
        raise UsageError(f"{name}: cannot be read as a PNG ({error}); write it anew") from None
