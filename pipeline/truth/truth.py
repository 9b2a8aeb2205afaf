"""Ground truth of images: boxes and masks of their objects, the same for every file format."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.image.orientation import invert_orientation, orient_boxes, orient_mask, swaps_sides
from pipeline.read.decode import MAX_PIXELS
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import Exif, MaskValues, TruthOrientation

Boxes = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Truth(ABC):
    """The annotated objects of one image.

    Attributes:
        key: WebDataset key of the image, derived from its file name.
        width, height: of the image in pixels; None if the files do not give them.
        orientation: of the image that the coordinates are of; None if nobody has said it.
        mask_values: what the values of a PNG mask are; None if nobody has said it.
        categories: classes of the objects, as far as the format has them.

    Raises:
        UsageError: the image has more pixels than the decoder accepts.
    """

    key: str
    width: int | None
    height: int | None
    orientation: TruthOrientation | None = field(default=None, kw_only=True)
    mask_values: MaskValues | None = field(default=None, kw_only=True)
    categories: frozenset[str] = field(default=frozenset(), kw_only=True)

    def __post_init__(self) -> None:
        if (self.width or 0) * (self.height or 0) > MAX_PIXELS:
            size = f"{self.width}×{self.height}"
            raise UsageError(f"truth of {self.key}: {size} pixels are more than the limit of {MAX_PIXELS:,}")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels of the image that ``boxes`` are in; None if unknown."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    @property
    @abstractmethod
    def boxes(self) -> Boxes:
        """int64 [m, 4]: x0, y0, x1, y1 of each object in pixels of the image, ends inclusive.

        Raises:
            UsageError: a box has no area or lies outside the image; a mask cannot be read.
        """

    @property
    def written_boxes(self) -> NDArray[np.float64]:
        """float [m, 4]: x0, y0, x1, y1 of the objects, not yet clipped; none where the files have masks only."""
        return np.zeros((0, 4))

    @property
    def mask(self) -> Mask | None:
        """bool [height, width], union of the objects; None if an object has only a box, or if there is no object.

        Raises:
            UsageError: a mask cannot be read.
        """
        return None

    @property
    def ignore(self) -> Mask:
        """bool [height, width], pixels that no metric counts; [1, 1], which broadcasts, if the size is unknown.

        Raises:
            UsageError: a mask cannot be read.
        """
        return np.zeros((self.height or 1, self.width or 1), bool)

    def stored_masks(self) -> tuple[Mask | None, Mask]:
        """Return ``mask`` and ``ignore`` in the size of their files, which may be another one than that of the image.

        Raises:
            UsageError: a mask cannot be read.
        """
        return self.mask, self.ignore

    def masks_on_grid(self, side: int) -> tuple[Mask | None, Mask]:
        """Return ``mask`` and ``ignore`` on a square grid, bool [side, side], by nearest pixel of ``stored_masks``.

        Raises:
            UsageError: a mask cannot be read.
        """
        mask, ignore = self.stored_masks()
        return None if mask is None else resize_mask(mask, side), resize_mask(ignore, side)

    @property
    def is_annotated(self) -> bool:
        """True if the files hold an annotation of the image, and do not only name it."""
        return True

    def with_size(self, width: int, height: int) -> "Truth":
        """Return this truth for an image of a known size, for files that do not give one.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.

        Raises:
            UsageError: the files give another size.
        """
        if (self.width, self.height) not in ((None, None), (width, height)):
            mismatch = f"{self.key}: is {width}×{height} pixels, but {self.width}×{self.height} in the truth"
            raise UsageError(f"{mismatch}; use the truth of these images")
        return self

    def for_sample(self, sample: Mapping[str, Any], exif: Exif) -> "Truth":
        """Return this truth in the coordinates of the maps of a sample.

        Args:
            sample: its ``width`` and ``height`` in pixels, as the maps see it, and its EXIF ``orientation``.
            exif: ``apply`` if the maps are of the upright image, ``ignore`` if they are of the stored one.

        Raises:
            UsageError: the files give another size; or nothing says whether the coordinates are of the stored or of
                the upright image.
        """
        truth, code = self.place(sample, exif)
        return truth if code == 1 else _OrientedTruth(self.key, sample["width"], sample["height"], truth, code)

    def place(self, sample: Mapping[str, Any], exif: Exif) -> tuple["Truth", int]:
        """Return this truth for the image of a sample, and the EXIF orientation that turns it to the maps, 1 to 8.

        Args and errors are those of ``for_sample``.
        """
        width, height, exif_orientation = sample["width"], sample["height"], sample["orientation"]
        if exif_orientation == 1:
            return self.with_size(width, height), 1
        maps_of: TruthOrientation = "upright" if exif == "apply" else "stored"
        size_by_kind = {maps_of: (width, height)}
        turned: TruthOrientation = "stored" if maps_of == "upright" else "upright"
        size_by_kind[turned] = (height, width) if swaps_sides(exif_orientation) else (width, height)
        orientation = self.orientation or self._find_orientation(size_by_kind, exif_orientation)
        try:
            truth = self.with_size(*size_by_kind[orientation])
        except UsageError as error:
            fix = f"as the image has the EXIF orientation {exif_orientation}, state another --truth-orientation"
            raise UsageError(f"{error}, or, {fix}") from None
        if orientation == maps_of:
            return truth, 1
        return truth, exif_orientation if maps_of == "upright" else invert_orientation(exif_orientation)

    def _find_orientation(
        self, size_by_kind: Mapping[TruthOrientation, tuple[int, int]], exif_orientation: int
    ) -> TruthOrientation:
        """Return the kind of image that has the size in the files; any kind, if none has it."""
        kinds = [kind for kind, size in size_by_kind.items() if (self.width, self.height) == size]
        if self.width is None or len(kinds) > 1:
            raise UsageError(
                f"{self.key}: has the EXIF orientation {exif_orientation}, so its truth may be of the image as it is "
                "stored, as most tools see it, or of the upright one; say which by --truth-orientation stored|upright"
            )
        return kinds[0] if kinds else next(iter(size_by_kind))


@dataclass(frozen=True, eq=False)
class _OrientedTruth(Truth):
    """A truth in the coordinates of an image that is turned by ``exif_orientation``."""

    source: Truth
    exif_orientation: int

    @property
    def boxes(self) -> Boxes:
        width, height = self.source.width, self.source.height
        assert width is not None
        assert height is not None
        return orient_boxes(self.source.boxes, self.exif_orientation, width, height)

    @property
    def mask(self) -> Mask | None:
        mask = self.source.mask
        return None if mask is None else orient_mask(mask, self.exif_orientation)

    @property
    def ignore(self) -> Mask:
        return orient_mask(self.source.ignore, self.exif_orientation)

    def stored_masks(self) -> tuple[Mask | None, Mask]:
        mask, ignore = self.source.stored_masks()
        oriented = None if mask is None else orient_mask(mask, self.exif_orientation)
        return oriented, orient_mask(ignore, self.exif_orientation)

    @property
    def is_annotated(self) -> bool:
        return self.source.is_annotated


def resize_mask(mask: Mask, side: int) -> Mask:
    """Return a mask [H, W] on a grid [side, side], by nearest pixel."""
    return cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST).astype(bool)


@dataclass(frozen=True, eq=False)
class TruthSet:
    """The truth of many images.

    Attributes:
        name: of the file or folder, for messages.
        digest: SHA-256 of the whole content, as ``sha256:…``.
        by_key: truth of each image.
        unique_names: True if no two file names are equal, so that they identify images in whatever folder.
        classes: names of each class, where the truth is of classes: the first one, and others that mean the same.
        folders: of the keys of the whole file or folder.
        whole_keys: True if keys are those of the samples with all folders, so that nothing but them is compared.
        keys_by_id: key of each image by its id, where the files have ids, as COCO does.
    """

    name: str
    digest: str
    by_key: Mapping[str, Truth]
    unique_names: bool
    classes: tuple[tuple[str, ...], ...] = ()
    folders: frozenset[str] = frozenset()
    whole_keys: bool = False
    keys_by_id: Mapping[Any, str] = field(default_factory=dict)

    @classmethod
    def from_truths(
        cls,
        path: Path,
        digest: str,
        truths: Iterable[Truth],
        classes: tuple[tuple[str, ...], ...] = (),
        keys_by_id: Mapping[Any, str] | None = None,
    ) -> Self:
        """Collect the truths of a file or folder.

        Args:
            path: the file or folder; its name becomes ``name``.
            digest: SHA-256 of the whole content.
            truths: one for each image.
            classes: as in the attribute.
            keys_by_id: as in the attribute.

        Raises:
            UsageError: two of them have the same key.
        """
        by_key: dict[str, Truth] = {}
        for truth in truths:
            if truth.key in by_key:
                raise UsageError(f"{path}: two images have the key {truth.key}; rename one of them")
            by_key[truth.key] = truth
        names = {key.rpartition("/")[2] for key in by_key}
        folders = frozenset(key.rpartition("/")[0] for key in by_key)
        unique = len(names) == len(by_key)
        return cls(path.resolve().name, digest, by_key, unique, classes, folders, keys_by_id=keys_by_id or {})

    def with_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> "TruthSet":
        """Return these truths with the sizes of their images, where the files do not give them; the digest covers that.

        Args:
            sizes: width and height in pixels, by key of the image.

        Raises:
            UsageError: the files give another size, or an object lies outside of the image.
        """
        by_key = {key: truth.with_size(*sizes[key]) if key in sizes else truth for key, truth in self.by_key.items()}
        digest = sha256(f"{self.digest} {sorted(sizes.items())}".encode())
        return replace(self, by_key=by_key, digest=digest)

    def with_options(self, orientation: TruthOrientation | None, mask_values: MaskValues | None) -> "TruthSet":
        """Return these truths as the user has said they are to be read; the digest covers that.

        Args:
            orientation: of the images that the coordinates are of.
            mask_values: what the values of PNG masks are.
        """
        if orientation is None and mask_values is None:
            return self
        changes = {"orientation": orientation, "mask_values": mask_values}
        by_key = {key: replace(truth, **changes) for key, truth in self.by_key.items()}  # type: ignore[arg-type]
        digest = sha256(f"{self.digest} {orientation} {mask_values}".encode())
        return replace(self, digest=digest, by_key=by_key)

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_key)

    def find(self, key: str) -> Truth | None:
        """Return the truth of a sample; None if there is none.

        Keys may differ in depth, unless ``whole_keys``: ``b/c`` matches ``a/b/c``. If all names are unique, folders
        may even differ, as in ILSVRC, whose validation images are distributed with class folders and without. They may
        not where the truth has the folder of the sample: then it has the names of that folder, and lacks this one.

        Raises:
            UsageError: two truths match.
        """
        key = key.removeprefix("./")
        if key in self.by_key or self.whole_keys:
            return self.by_key.get(key)
        same_name = self._keys_by_name.get(key.rpartition("/")[2], [])
        matches = [other for other in same_name if other.endswith(f"/{key}") or key.endswith(f"/{other}")]
        if len(matches) > 1:
            both = f"{matches[0]} and {matches[1]} are both the truth of {key}"
            raise UsageError(f"{self.name}: {both}; add the folder to its key in the shard, or remove one of them")
        if not matches and self.unique_names and not self._has_folder(key.rpartition("/")[0]):
            matches = same_name
        return self.by_key[matches[0]] if matches else None

    def find_annotated(self, key: str) -> Truth | None:
        """Return the truth of a sample; None if there is none, or if it has no annotation.

        Raises:
            UsageError: two truths match.
        """
        truth = self.find(key)
        return truth if truth is not None and truth.is_annotated else None

    def _has_folder(self, folder: str) -> bool:
        """Return whether keys are of this folder, given in whatever depth."""
        return folder in self._folder_ends or not self.folders.isdisjoint(_ends(folder))

    @cached_property
    def _folder_ends(self) -> frozenset[str]:
        return frozenset(end for folder in self.folders for end in _ends(folder))

    @cached_property
    def _keys_by_name(self) -> Mapping[str, list[str]]:
        keys_by_name: dict[str, list[str]] = {}
        for key in self.by_key:
            keys_by_name.setdefault(key.rpartition("/")[2], []).append(key)
        return keys_by_name

    def subset(self, keys: Iterable[str]) -> "TruthSet":
        """Return the truth of some samples, small enough to send to the worker that processes them.

        Raises:
            UsageError: see ``find``.
        """
        truths = [truth for key in keys if (truth := self.find(key)) is not None]
        by_key = {truth.key: truth for truth in truths}
        digest = sha256("\n".join([self.digest, *by_key]).encode())
        return replace(self, digest=digest, by_key=by_key, keys_by_id={})


def _ends(folder: str) -> Iterator[str]:
    """Yield ``a/b/c``, ``b/c`` and ``c`` of ``a/b/c``; nothing of no folder."""
    parts = folder.split("/")
    return ("/".join(parts[place:]) for place in range(len(parts)) if folder)


class TruthMatcher:
    """A ``TruthSet`` in which each truth belongs to at most one sample, so that no image is counted twice.

    Samples of one shard with one key are one sample: all but the first have the status ``duplicate_key``, and no maps.
    """

    def __init__(self, truths: TruthSet) -> None:
        self._truths = truths
        self._samples: dict[str, tuple[str, str]] = {}

    def match(self, shard: str, key: str) -> Truth | None:
        """Return the truth of a sample; None if there is none.

        Args:
            shard: of the sample.
            key: of the sample.

        Raises:
            UsageError: the truth matches another sample too; see also ``TruthSet.find``.
        """
        truth = self._truths.find(key)
        if truth is None:
            return None
        first = self._samples.setdefault(truth.key, (shard, key))
        if first != (shard, key):
            both = f"{key} in {shard} and {first[1]} in {first[0]}"
            raise UsageError(
                f"{self._truths.name}: {truth.key} would be the truth of {both}; remove one of the samples, or name "
                "images in the truth by their whole keys"
            )
        return truth
