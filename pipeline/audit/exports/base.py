"""Base of exporters: the protocol, and the data that they get."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store import ObjectStore
from schemas.audit_records import ExportSpec
from schemas.run_record import RunRecord


@dataclass(frozen=True)
class ShardData:
    """Data of one shard: its n samples that have maps, in the order of the rows.

    Attributes:
        shard: short name of the shard.
        samples: rows of the sample table.
        class_ids: int64 [n], classes that the maps explain.
        maps: float32 [n, h, w] in [0, 1], by method; 0 everywhere in degenerate maps.
        pixels: input of the network in batches, uint8 [b, 3, H, W], to be read once; None if not requested.
        masks: object masks on this input, bool [H, W], to be read once; None for samples without truth, and None
            altogether if no truth was given.
    """

    shard: str
    samples: pa.Table
    class_ids: NDArray[np.int64]
    maps: Mapping[str, NDArray[np.float32]]
    pixels: Iterable[NDArray[np.uint8]] | None
    masks: Iterable[NDArray[np.bool_] | None] | None

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class AtlasContext:
    """Data of the whole atlas.

    Attributes:
        run: run that made the atlas.
        about: settings of the export.
        samples: row, shard, label, prediction, key of all samples that have maps, in the order of the rows.
        audit: folder of the audit, with its tables.
    """

    run: RunRecord
    about: ExportSpec
    samples: pa.Table
    audit: ObjectStore


class AuditExporter(Protocol):
    """A format of another program. To add one: a file in this folder, and a line in its ``EXPORTERS``.

    Files are written below a local folder, and each name is yielded once the file is closed. The caller uploads the
    file and removes it.
    """

    def require_packages(self) -> None:
        """Make sure that the packages that it needs are installed.

        Raises:
            UsageError: a package is missing.
        """

    def validate(self, about: ExportSpec, audit: ObjectStore) -> None:
        """Refuse an impossible export before anything is written.

        Args:
            about: settings of the export.
            audit: folder of the audit.

        Raises:
            UsageError: a package is missing, or the audit lacks a table.
        """

    def export_shard(self, data: ShardData, run: RunRecord, folder: Path) -> Iterator[str]:
        """Write the files of a shard, and yield their names.

        Args:
            data: data of the shard; at least one sample.
            run: run that made the atlas.
            folder: local folder to write to.
        """

    def export_all(self, context: AtlasContext, folder: Path) -> Iterator[str]:
        """Write the files of the whole atlas once those of all shards exist, and yield their names.

        Args:
            context: data of the atlas.
            folder: local folder to write to.
        """

    def atlas_files(self, about: ExportSpec) -> Iterable[str]:
        """Return the names of all files that ``export_all`` may write."""


def prepare_path(folder: Path, name: str) -> Path:
    """Return the path of a file below a folder, and create its parent."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
