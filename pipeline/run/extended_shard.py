"""A shard of the atlas that a part adds methods to: the part explains the same images, for the same classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.store import Atlas
from schemas.errors import CorruptShardError
from schemas.run_record import ShardRecord
from schemas.samples import SampleStatus, class_ids

_INPUTS = ("key", "image_sha256", "label", "labels")
"""Columns that say what a map is made from, beside the texts."""


class ExtendedShard:
    """The samples of one finished shard, to which a part adds maps.

    Args:
        atlas: that is extended.
        shard: name of the shard.
    """

    def __init__(self, atlas: Atlas, shard: str) -> None:
        self.shard = shard
        read, targets = atlas.shard(shard), atlas.run.spec.target_names
        self.source, self.rows = read.commit.source, read.samples.to_pylist()
        columns = [class_ids(read.samples, target, targets).fill_null(-1).to_numpy() for target in targets]
        # A text is a class of its own number in each batch, and a label that an image lacks has no map.
        self._class_ids = np.stack(columns, 1).astype(np.int64)

    def read_file(self, shard: ShardRecord) -> ShardRecord:
        """Return the shard with what is known of the file that the atlas has read, which may not be the planned one."""
        source = self.source
        return replace(shard, size=source.size, fingerprint=source.fingerprint, listing=source.listing)

    def class_ids(self, ordinals: Sequence[int], computed: Tensor) -> Tensor:
        """Return the classes that the maps explain in the atlas: int64 [B, K].

        The class with the highest logit may be another one on another device, where two are almost equal.

        Args:
            ordinals: B samples.
            computed: int64 [B, K], for samples and targets of which the atlas has no class.

        Raises:
            CorruptShardError: the atlas has fewer samples.
        """
        self.check_count(ordinals[-1] + 1)
        known = torch.from_numpy(self._class_ids[list(ordinals)]).to(computed.device)
        return torch.where(known >= 0, known, computed)

    def check_count(self, count: int, whole: bool = False) -> None:
        """Make sure that there are not more samples than in the atlas.

        Args:
            count: number of samples that were read.
            whole: the shard was read to its end, so there must not be fewer either.

        Raises:
            CorruptShardError: there are.
        """
        if count > len(self.rows) or (whole and count < len(self.rows)):
            raise CorruptShardError(
                f"{self.shard}: has {len(self.rows)} samples in the atlas and {count} now; restore its file"
            )

    def row(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of a sample in the atlas.

        Args:
            now: its row as it is computed now.

        Raises:
            CorruptShardError: it has maps in the atlas, and another image, label or text now, or cannot be explained.
        """
        self.check_count(now["ordinal"] + 1)
        row = self.rows[now["ordinal"]]
        if row["status"] != SampleStatus.OK:
            return dict(row)
        if now["status"] != SampleStatus.OK:
            raise CorruptShardError(
                f"{row['shard']}: {row['key']} has maps in the atlas and cannot be explained now ({now['error']}); "
                "restore its file, or use the machine and the versions that the atlas was computed with"
            )
        changed = [name for name in _INPUTS if now[name] != row[name]]
        changed += ["target_texts"] * (now.get("target_texts") != row["target_texts"])
        if changed:
            raise CorruptShardError(
                f"{row['shard']}: {' and '.join(changed)} of {row['key']}, which has maps in the atlas, changed; "
                "restore its file, or plan another atlas"
            )
        return dict(row)
