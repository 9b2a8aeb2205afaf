"""What really is in pictures: boxes and masks of their objects, whatever files say it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.read.decode import MAX_PIXELS
from schemas.base import sha256
from schemas.errors import UsageError

Boxes = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth(ABC):
    """The objects of one picture.

    Attributes:
        key: of the picture, as WebDataset makes it of the name of its file.
        width, height: of the picture, in pixels; None where the files do not say.

    Raises:
        UsageError: these are more pixels than are decoded.
    """

    key: str
    width: int | None
    height: int | None

    def __post_init__(self) -> None:
        if (self.width or 0) * (self.height or 0) > MAX_PIXELS:
            size = f"{self.width}×{self.height}"
            raise UsageError(f"truth of {self.key}: {size} pixels are more than the {MAX_PIXELS:,} of a picture")

    @property
    @abstractmethod
    def corners(self) -> Boxes:
        """int64 [m, 4], x0, y0, x1, y1 of each object in pixels of the picture, ends inclusive.

        Raises:
            UsageError: a box has no area, or none of it lies in the picture; a mask cannot be read.
        """

    @property
    def mask(self) -> Mask | None:
        """bool [height, width], union of the objects; None where one has a box only, or there is none.

        Raises:
            UsageError: a mask cannot be read.
        """
        return None

    @property
    def ignore(self) -> Mask:
        """bool [height, width], pixels that no figure counts; [1, 1], which broadcasts, where the size is not known.

        Raises:
            UsageError: a mask cannot be read.
        """
        return np.zeros((self.height or 1, self.width or 1), bool)

    def on_grid(self, side: int) -> tuple[Mask | None, Mask]:
        """``mask`` and ``ignore`` on a square grid, bool [side, side], nearest pixel of the file's own size.

        Raises:
            UsageError: a mask cannot be read.
        """
        mask = self.mask
        return None if mask is None else resize_mask(mask, side), resize_mask(self.ignore, side)

    @property
    def annotated(self) -> bool:
        """Whether anything is said of the picture."""
        return True

    def of_size(self, width: int, height: int) -> "Truth":
        """The same of a picture that has this size, for files that do not say one.

        Raises:
            UsageError: they say another.
        """
        if (self.width, self.height) not in ((None, None), (width, height)):
            what = f"{self.key}: is {width}×{height} pixels, but {self.width}×{self.height} in the truth"
            raise UsageError(f"{what}; is it the truth of other pictures?")
        return self


def resize_mask(mask: Mask, side: int) -> Mask:
    """A mask [H, W] on a grid [side, side], nearest pixel."""
    return cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST).astype(bool)


@dataclass(frozen=True, eq=False)
class Truths:
    """The truth of many pictures.

    Attributes:
        name: of the file or folder, for people.
        digest: SHA-256 of all that it says, as ``sha256:…``.
        pictures: by key.
        bare: whether no two file names are equal, so that they name pictures whatever folder they are in.
    """

    name: str
    digest: str
    pictures: Mapping[str, Truth]
    bare: bool

    @classmethod
    def gather(cls, path: Path, digest: str, truths: Iterable[Truth]) -> Self:
        """All truths of a file or folder.

        Raises:
            UsageError: two are of one key.
        """
        pictures: dict[str, Truth] = {}
        for each in truths:
            if each.key in pictures:
                raise UsageError(f"{path}: two pictures have the key {each.key}")
            pictures[each.key] = each
        names = {key.rpartition("/")[2] for key in pictures}
        return cls(path.resolve().name, digest, pictures, len(names) == len(pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pictures)

    def of(self, key: str) -> Truth | None:
        """The truth of a picture; None where there is none.

        Folders need not go equally deep: ``b/c`` is ``a/b/c``. They may even differ where no two pictures of the
        truth have one file name, as in ILSVRC, whose validation pictures come with folders of classes and without.

        Raises:
            UsageError: there are two.
        """
        key = key.removeprefix("./")
        if key in self.pictures:
            return self.pictures[key]
        same = self._named.get(key.rpartition("/")[2], [])
        deeper = [each for each in same if each.endswith(f"/{key}") or key.endswith(f"/{each}")]
        if len(deeper) > 1:
            both = f"{deeper[0]} and {deeper[1]} are both the truth of {key}"
            raise UsageError(f"{self.name}: {both}; name its folder in the shard, or take one away")
        found = deeper or (same if self.bare else [])
        return self.pictures[found[0]] if found else None

    @cached_property
    def _named(self) -> Mapping[str, list[str]]:
        named: dict[str, list[str]] = {}
        for key in self.pictures:
            named.setdefault(key.rpartition("/")[2], []).append(key)
        return named

    def subset(self, keys: Iterable[str]) -> "Truths":
        """What there is of some pictures; small enough to be sent to where those are worked on.

        Raises:
            UsageError: see ``of``.
        """
        found = [truth for key in keys if (truth := self.of(key)) is not None]
        pictures = {truth.key: truth for truth in found}
        return Truths(self.name, sha256("\n".join([self.digest, *pictures]).encode()), pictures, self.bare)
