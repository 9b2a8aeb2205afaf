"""Features of images in files, one for each shard. They are read in blocks, since they may be larger than memory."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.utils.tensor_file import to_safetensors
from schemas.base import differences
from schemas.errors import UsageError

BLOCK = 2048
"""Largest number of rows in memory at a time, of each thread."""
IDENTITY, LEFT_OUT = "identity", "left_out"


@dataclass(frozen=True)
class LeftOut:
    """A sample without features.

    Attributes:
        shard: its shard.
        ordinal: its position there.
        key: its key.
        status: the kind of fault.
        error: one sentence.
    """

    shard: str
    ordinal: int
    key: str
    status: str
    error: str


@dataclass(frozen=True)
class ShardFeatures:
    """Features of one shard.

    Attributes:
        features: float16 [n, in].
        labels: int64 [n].
        images: int64 [n], the first 8 bytes of the SHA-256 of each image file.
        left_out: samples that have none.
    """

    features: Tensor
    labels: Tensor
    images: Tensor
    left_out: tuple[LeftOut, ...]

    def to_bytes(self, identity: dict[str, Any]) -> bytes:
        """Return the content of their file.

        Args:
            identity: all that decides them; see ``FeatureTable.check``.
        """
        left_out = [[row.ordinal, row.key, row.status, row.error] for row in self.left_out]
        tensors = {"features": self.features, "labels": self.labels, "images": self.images}
        return to_safetensors(tensors, {IDENTITY: json.dumps(identity), LEFT_OUT: json.dumps(left_out)})


@dataclass(frozen=True)
class FeatureTable:
    """Features of all images of several shards, which stay in their files.

    Attributes:
        files: of the shards, in order.
        starts: int64 [files + 1], number of the first row of each file, and of all rows.
        width: in, number of features of an image.
        labels: int64 [n].
        images: int64 [n], the first 8 bytes of the SHA-256 of each image file.
        left_out: samples without features.
    """

    files: tuple[Path, ...]
    starts: NDArray[np.int64]
    width: int
    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, files: Sequence[Path]) -> Self:
        """Open the files of shards, at least one."""
        labels, images, left_out, width = [], [], [], 0
        for path in files:
            with safe_open(path, "pt") as file:
                labels.append(file.get_tensor("labels").numpy())
                images.append(file.get_tensor("images").numpy())
                width = file.get_slice("features").get_shape()[1]
                left_out += [LeftOut(path.stem, *row) for row in json.loads(file.metadata()[LEFT_OUT])]
        starts = np.cumsum([0, *map(len, labels)])
        return cls(tuple(files), starts, width, np.concatenate(labels), np.concatenate(images), tuple(left_out))

    def rows(self, chosen: NDArray[np.bool_]) -> "FeatureRows":
        """Return chosen rows, in order.

        Args:
            chosen: [n].
        """
        return FeatureRows(self, np.flatnonzero(chosen))


def is_made(path: Path, identity: dict[str, Any]) -> bool:
    """Return whether the features of a shard are there.

    Args:
        path: their file.
        identity: all that decides them.

    Raises:
        UsageError: the file is something else.
    """
    try:
        with safe_open(path, "pt") as file:
            existing = json.loads((file.metadata() or {}).get(IDENTITY, "{}"))
    except FileNotFoundError:
        return False
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as features ({error}); remove it") from None
    if changes := differences(existing, identity):
        folder = path.parent
        raise UsageError(f"{path}: holds other features ({changes[0]}); remove {folder}, or name another --features")
    return True


class FeatureRows:
    """Rows of a table, in blocks of one file each.

    Attributes:
        labels: int64 [n] of these rows.
        width: number of features of an image.
    """

    def __init__(self, table: FeatureTable, rows: NDArray[np.int64]) -> None:
        self._table, self._rows = table, rows
        self.labels, self.width = table.labels[rows], table.width
        bounds = np.searchsorted(rows, table.starts)
        self._blocks = [
            (file, first, min(first + BLOCK, end))
            for file, (start, end) in enumerate(itertools.pairwise(bounds))
            for first in range(int(start), int(end), BLOCK)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def block(self, index: int) -> tuple[Tensor, Tensor]:
        """Read features float32 [m, in] and labels int64 [m] of a block; only the pages of its rows are read."""
        file, first, end = self._blocks[index]
        inside = self._rows[first:end] - self._table.starts[file]
        with safe_open(self._table.files[file], "pt") as content:
            features = content.get_slice("features")[int(inside[0]) : int(inside[-1]) + 1]
        return features[torch.from_numpy(inside - inside[0])].float(), torch.from_numpy(self.labels[first:end])
