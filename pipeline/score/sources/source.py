"""Sources of predictions: an atlas, or files of another program, in the one form that scores are computed from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from pipeline.image.score_map import Window
from pipeline.store.derived import ShardContent
from pipeline.truth.truth import Truth
from schemas.errors import UsageError
from schemas.run import Exif
from schemas.scores import is_control

Prediction = NDArray[Any]
"""A map, float [h, w] of any scale; a mask, bool [h, w]; or a box, float [4]: x0, y0, x1, y1, ends inclusive."""
ReadPredictions = Callable[[], Mapping[str, Prediction]]
"""Returns the prediction of each method."""


@dataclass(frozen=True)
class SourceImage:
    """An image of a source.

    Attributes:
        key: of the image.
        size: width and height in pixels, as the predictions see it; None: that of the truth.
        orientation: EXIF orientation.
        exif: ``apply`` if the predictions are of the upright image, ``ignore`` if they are of the stored one.
        has_maps: there are predictions of it.
        is_duplicate: an earlier sample of its shard has the same key.
        is_map_sized: ``size`` is that of the map, taken for that of the image.
        window: part of the image that maps cover.
        label_rank: rank of the label among the classes; None without a label or a network.
    """

    key: str
    size: tuple[int, int] | None = None
    orientation: int = 1
    exif: Exif = "apply"
    has_maps: bool = True
    is_duplicate: bool = False
    is_map_sized: bool = False
    window: Window = (0, 0, 1, 1)
    label_rank: int | None = None

    def place(self, truth: Truth) -> Truth:
        """Return the truth of this image in the coordinates of its predictions, with a size.

        Raises:
            UsageError: the truth has another size or an unknown orientation; or nothing gives the size.
        """
        if self.size is not None:
            try:
                return truth.for_sample(self._sample(self.size), self.exif)
            except UsageError as error:
                if not self.is_map_sized:
                    raise
                fix = "or, as --sizes maps took the size of the map for that of the image, give --sizes FILE instead"
                raise UsageError(f"{error}, {fix}") from None
        if truth.size is None:
            raise UsageError(
                f"{self.key}: its truth gives no size of the image, which boxes need; give image_sizes.txt with "
                "--sizes FILE, or --sizes maps if every map is as large as its image"
            )
        return truth

    def add_size(self, truth: Truth) -> Truth:
        """Return the truth of this image in its own coordinates, with the size of the image that they are of.

        Raises:
            UsageError: see ``place``.
        """
        return truth if self.size is None else truth.place(self._sample(self.size), self.exif)[0]

    def _sample(self, size: tuple[int, int]) -> dict[str, int]:
        return {"width": size[0], "height": size[1], "orientation": self.orientation}


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreSource(ABC):
    """Where maps, masks or boxes come from, in shards that are counted one by one. It can be pickled.

    Attributes:
        name: of the source in tables.
        url: path or URL.
        digest: SHA-256 of what identifies it: of the run of an atlas, of the names of files.
        methods: names of the methods, each a row of tables.
        target: target kind that maps explain; None: unknown.
        network: name and hash of the network; None: unknown.
        has_maps: the predictions are maps or masks; otherwise a box for each image.
    """

    name: str
    url: str
    digest: str
    methods: tuple[str, ...]
    target: str | None = None
    network: str | None = None
    has_maps: bool = True

    def identify(self, method: str) -> dict[str, str | None]:
        """Return the columns of tables that say what is scored, for a method or a control."""
        return {
            "source": self.name,
            "method": method,
            "kind": "control" if is_control(method) else "method",
            "target": self.target,
            "network": self.network,
        }

    @property
    @abstractmethod
    def shard_names(self) -> Sequence[str]:
        """Names of the shards, in order."""

    @property
    def committed(self) -> frozenset[str]:
        """All shards."""
        return frozenset(self.shard_names)

    def records(self, skip: Container[str] = ()) -> Iterable[ShardContent]:
        """Yield the present contents of all shards but the skipped ones, in order."""
        return (self.record(shard) for shard in self.shard_names if shard not in skip)

    def of_shard(self, shard: str) -> Self:
        """Return this source with all that one shard needs, to be sent to the worker that counts it."""
        return self

    @abstractmethod
    def record(self, shard: str) -> ShardContent:
        """Return the present content of a shard."""

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """Return the hash of a shard in each part of an atlas with some of the methods; none without an atlas."""
        return {}

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        """Return whether a shard has the same maps in these parts, as ``parts_of`` returned them."""
        return not parts

    def run_of(self, shard: str, method: str) -> str:
        """Return the ``run_hash`` of the run that has made the maps of a method; empty without an atlas."""
        return ""

    def atlas_of(self, shard: str) -> str:
        """Return the ``run_hash`` of the atlas that has a shard, where several are joined; else nothing."""
        return ""

    @abstractmethod
    def images(self, shard: str) -> Sequence[SourceImage]:
        """Return the images of a shard, without reading their predictions."""

    @abstractmethod
    def predictions(self, shard: str, methods: Sequence[str]) -> Iterator[tuple[SourceImage, ReadPredictions]]:
        """Yield the images of a shard, each with the function that reads its predictions.

        Args:
            shard: its name.
            methods: that are read.

        Raises:
            UsageError: a prediction cannot be used.
        """
