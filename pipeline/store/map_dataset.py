"""Maps for whoever learns from them: what ``torch.utils.data.DataLoader`` takes. It asks for no class of torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RunFailedError
from schemas.samples import SampleStatus

if TYPE_CHECKING:
    from pipeline.store.atlas import Atlas


class MapDataset:
    """Maps of one method and target, each with its row: a dataset of the map style, to index and to shuffle.

    An item is float32 [h, w] in [0, 1] and its row in the sample table; a ``DataLoader`` makes tensors of them, and
    reads a batch at once. Samples without maps are left out; a map that says nothing is 0 everywhere.

    Attributes:
        rows: int64 [n], of the items in their order.
    """

    def __init__(self, atlas: "Atlas", method: str, target: str = "label") -> None:
        atlas.require(target, [method])
        self._atlas, self._method, self._target = atlas, method, target
        table = atlas.samples(["row", "status"])
        good = np.array([status == SampleStatus.OK for status in table["status"].to_pylist()], bool)
        self.rows: NDArray[np.int64] = table["row"].to_numpy()[good]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[NDArray[np.float32], int]]:
        """Several items, in one reading.

        Raises:
            IndexError: there is no such item.
            RunFailedError: a map that should be there is not.
        """
        rows = self.rows[list(indices)]
        maps = self._atlas._read(self._method, rows, self._target).astype(np.float32)
        if np.isnan(maps).any():
            url = self._atlas.objects.url
            raise RunFailedError(f"{url}: {self._method} maps of {self._target} are missing; see vitatlas verify")
        return list(zip(maps, rows.tolist(), strict=True))
