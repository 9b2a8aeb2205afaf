"""Ground truth of many images, found by the keys of samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pipeline.truth.truth import Truth
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import MaskValues, TruthOrientation

RENAME = "rename one of them, or, if names have several dots, end keys at the last one by --key-separator last-dot"


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
                raise UsageError(f"{path}: two images have the key {truth.key}; {RENAME}")
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
