"""An atlas as a source of maps."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.image.score_map import visible_window
from pipeline.score.sources.source import Prediction, ReadPredictions, ScoreSource, SourceImage
from pipeline.store import MapReader
from pipeline.utils.shares import with_shares
from schemas.commits import CommitRecord
from schemas.samples import SampleStatus, class_columns, class_ids, may_lack

_COLUMNS = (
    "key", "status", "width", "height", "orientation", "label_rank", "offset_x", "offset_y", "scale_x", "scale_y",
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class AtlasSource(ScoreSource):
    """The maps of an atlas. Its shards are those of the run.

    Attributes:
        atlas: with the maps.
        target: of the maps.
    """

    atlas: MapReader
    target: str

    @classmethod
    def of(cls, atlas: MapReader, target: str = "label", methods: Sequence[str] = (), name: str | None = None) -> Self:
        """Select maps of an atlas.

        Args:
            atlas: with the maps.
            target: of the maps: one of the atlas, or a target kind with several, of which any is enough.
            methods: names of methods.
            name: of the source in tables; None is the name of the folder.
        """
        url, model = atlas.url, atlas.run.model
        return cls(
            name=name or PurePath(atlas.atlases[0].url.rstrip("/")).name,
            url=url,
            digest=atlas.run.run_hash,
            methods=tuple(methods),
            target=target,
            network=f"{PurePath(model.name).name} {model.weights.removeprefix('sha256:')[:12]}",
            atlas=atlas,
        )

    @property
    def shard_names(self) -> tuple[str, ...]:
        """Finished shards."""
        return self.atlas.shard_names

    @property
    def committed(self) -> frozenset[str]:
        """Finished shards as a set."""
        return self.atlas.committed

    def record(self, shard: str) -> CommitRecord:
        """Return the present commit of a shard."""
        return self.atlas.record(shard)

    def records(self, skip: Container[str] = ()) -> Iterator[CommitRecord]:
        """Yield the commits of all shards but the skipped ones."""
        return self.atlas.records(skip)

    def parts_of(self, shard: str, methods: Sequence[str]) -> dict[str, str]:
        """See ``MapReader.parts_of``."""
        return self.atlas.parts_of(shard, methods)

    def has_parts(self, shard: str, parts: Mapping[str, str]) -> bool:
        """See ``MapReader.has_parts``."""
        return self.atlas.has_parts(shard, parts)

    def run_of(self, shard: str, method: str) -> str:
        """See ``MapReader.run_of``."""
        return self.atlas.run_of(shard, method)

    def atlas_of(self, shard: str) -> str:
        """See ``MapReader.atlas_of``."""
        return self.atlas.atlas_of(shard)

    def images(self, shard: str) -> list[SourceImage]:
        columns = [*_COLUMNS, *(class_columns(self.target) if may_lack(self.target) else ())]
        return self._to_images(self.atlas.samples_of(shard, columns=columns))

    def predictions(self, shard: str, methods: Sequence[str]) -> Iterator[tuple[SourceImage, ReadPredictions]]:
        content = self.atlas.shard(shard)
        maps = {method: content.maps(method, self.target) for method in methods}

        def read(index: int) -> dict[str, Prediction]:
            return {method: values[index] for method, values in maps.items()}

        for index, image in enumerate(with_shares(self._to_images(content.samples))):
            yield image, partial(read, index)

    def _to_images(self, table: pa.Table) -> list[SourceImage]:
        run = self.atlas.run
        has_maps = pc.equal(table["status"].cast(pa.string()), SampleStatus.OK)
        if may_lack(self.target):
            has_maps = pc.and_(has_maps, pc.is_valid(class_ids(table, self.target, run.spec.target_names)))
        rows = table.select(_COLUMNS).to_pylist()
        return [
            SourceImage(
                row["key"],
                size=(row["width"], row["height"]),
                orientation=row["orientation"],
                exif=run.spec.exif,
                has_maps=True,
                window=visible_window(row, run.model.input_size),
                label_rank=row["label_rank"],
            )
            if is_mapped
            else SourceImage(row["key"], has_maps=False, is_duplicate=row["status"] == SampleStatus.DUPLICATE_KEY)
            for row, is_mapped in zip(rows, has_maps.to_pylist(), strict=True)
        ]
