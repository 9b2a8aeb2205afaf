"""``MapDataset``: maps as a map-style dataset for ``torch.utils.data.DataLoader``. It does not import torch."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RunFailedError


class _Rows(Protocol):
    """What has the maps, see ``MapReader``."""

    @property
    def url(self) -> str: ...

    def read(self, array: str, rows: NDArray[np.int64], target: str) -> NDArray[Any]: ...


class MapDataset:
    """Maps of one method and target kind, each with its row: a map-style dataset.

    An item is a map, float32 [h, w] in [0, 1], and its row in the sample table. A ``DataLoader`` reads a whole batch at
    once and makes tensors of it. Samples without maps are left out; a degenerate map is 0 everywhere.

    Attributes:
        rows: int64 [n], rows of the items in their order.
    """

    def __init__(self, atlas: _Rows, rows: NDArray[np.int64], method: str, target: str) -> None:
        self._atlas, self.rows, self._method, self._target = atlas, rows, method, target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[NDArray[np.float32], int]]:
        """Return several items, with one read.

        Raises:
            IndexError: an index is out of range.
            RunFailedError: a map is missing.
        """
        rows = self.rows[list(indices)]
        maps = self._atlas.read(self._method, rows, self._target).astype(np.float32)
        if np.isnan(maps).any():
            url = self._atlas.url
            raise RunFailedError(f"{url}: {self._method} maps of {self._target} are missing; see vitatlas verify")
        return list(zip(maps, rows.tolist(), strict=True))
