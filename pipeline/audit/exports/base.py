"""What an export to another program is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store import ObjectStore
from schemas.audit_records import ExportRecord
from schemas.run import RunRecord


@dataclass(frozen=True)
class ShardData:
    """What an atlas has of one shard: of its n samples that have maps, in the order of the rows.

    Attributes:
        samples: their rows of the sample table.
        classes: int64 [n], that the maps explain.
        maps: float32 [n, h, w] in [0, 1], by method; 0 everywhere where a map says nothing.
        pixels: what the network saw, some samples at a time: uint8 [b, 3, H, W]. Comes once. None: not wanted.
        masks: where the object is in that, bool [H, W]; of a sample of which no truth is known, None. Comes once.
            None: no truth was given.
    """

    shard: str
    samples: pa.Table
    classes: NDArray[np.int64]
    maps: Mapping[str, NDArray[np.float32]]
    pixels: Iterable[NDArray[np.uint8]] | None
    masks: Iterable[NDArray[np.bool_] | None] | None

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class AtlasContext:
    """What all parts have in common.

    Attributes:
        run: that made the atlas.
        about: what is asked for.
        samples: row, shard, label, prediction, key of all samples that have maps, in the order of the rows.
        audit: folder of the audit, with its tables.
    """

    run: RunRecord
    about: ExportRecord
    samples: pa.Table
    audit: ObjectStore


class AuditExporter(Protocol):
    """A format of another program. To add one: a file in this folder, and a line in its ``EXPORTERS``.

    Files are written below a local folder, and their names are given once they are closed: whoever asked puts them
    where they belong, and removes them.
    """

    def require(self) -> None:
        """Make sure that what it is written with is installed.

        Raises:
            UsageError: it is not.
        """
        ...

    def check(self, about: ExportRecord, audit: ObjectStore) -> None:
        """Refuse before anything is done.

        Raises:
            UsageError: a package is not installed, or the audit has not what is needed of it.
        """
        ...

    def of_shard(self, part: ShardData, run: RunRecord, folder: Path) -> Iterator[str]:
        """Files of one shard, in which there is at least one sample."""
        ...

    def of_all(self, whole: AtlasContext, folder: Path) -> Iterator[str]:
        """Files that are made of all shards together, when those of each are there."""
        ...

    def atlas_files(self, about: ExportRecord) -> Iterable[str]:
        """Names of all files that ``of_all`` may write."""
        ...


def prepare_path(folder: Path, name: str) -> Path:
    """Where a file is written that is to have this name; its folder is made."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
