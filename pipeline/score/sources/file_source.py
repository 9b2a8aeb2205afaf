"""Sources in files: predictions of one method, in parts that take the place of shards."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Self, TypeVar

from pipeline.score.sources.source import Prediction, ReadPredictions, ScoreSource, SourceImage
from pipeline.utils.shares import with_shares
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import UsageError

Entry = TypeVar("Entry")

PART_IMAGES = 256
"""Images of a part: a few seconds of work."""


@dataclass(frozen=True)
class PartContent:
    """The content of a part.

    Attributes:
        shard: name of the part.
        objects: what the predictions of its images are read from.
    """

    shard: str
    objects: tuple[ObjectRecord, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class FileSource(ScoreSource, Generic[Entry]):
    """Predictions of one method in files.

    Attributes:
        parts: of each part, its images by key: what their predictions are read from.
    """

    parts: Mapping[str, Mapping[str, Entry]]

    @classmethod
    def of_entries(cls, url: str, name: str, entries: Mapping[str, Entry], digest: str, **fields: Any) -> Self:
        """Divide entries into parts, in the order of their keys.

        Args:
            url: path of the files, for messages.
            name: of the source in tables, and of its method.
            entries: by key of the image.
            digest: SHA-256 of what identifies the files.
            **fields: further fields of the class.

        Raises:
            UsageError: there are none.
        """
        if not entries:
            raise UsageError(f"{url}: has no predictions; name a file or folder with some")
        keys = sorted(entries)
        parts = {
            f"images-{start // PART_IMAGES:05d}": {key: entries[key] for key in keys[start : start + PART_IMAGES]}
            for start in range(0, len(keys), PART_IMAGES)
        }
        return cls(name=name, url=url, digest=digest, methods=(name,), parts=parts, **fields)

    @property
    def shard_names(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def of_shard(self, shard: str) -> Self:
        return replace(self, parts={shard: self.parts[shard]})

    def record(self, shard: str) -> PartContent:
        return PartContent(shard, tuple(self.describe(key, entry) for key, entry in self.parts[shard].items()))

    def images(self, shard: str) -> Sequence[SourceImage]:
        return [SourceImage(key) for key in self.parts[shard]]

    def predictions(self, shard: str, methods: Sequence[str]) -> Iterator[tuple[SourceImage, ReadPredictions]]:
        for image in with_shares(self.images(shard)):
            yield image, partial(self._read_all, methods, self.parts[shard][image.key])

    def _read_all(self, methods: Sequence[str], entry: Entry) -> Mapping[str, Prediction]:
        return {method: self.read(entry) for method in methods}

    @abstractmethod
    def read(self, entry: Entry) -> Prediction:
        """Return the prediction of one image.

        Raises:
            UsageError: it cannot be used.
        """

    def describe(self, key: str, entry: Entry) -> ObjectRecord:
        """Return the present content of one image, by which a change is found."""
        content = repr(entry).encode()
        return ObjectRecord(path=key, size=len(content), sha256=sha256(content))
