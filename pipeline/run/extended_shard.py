"""A shard of the atlas that a part adds methods or targets to: the part explains the same images and classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.explain.method import Method
from pipeline.store import Atlas
from schemas.errors import CorruptShardError, RunFailedError
from schemas.layout import arrays
from schemas.run_record import RunRecord
from schemas.samples import LABEL_COLUMNS, TARGET_COLUMNS, SampleStatus, class_ids
from schemas.shard_record import ShardRecord

_INPUTS = ("key", "image_sha256", "label", "labels")
"""Columns that say what a map is made from, beside the texts."""


class ExtendedShard:
    """The samples of one finished shard, to which a part adds maps.

    Args:
        atlas: that is extended, with the targets before those that the part adds; else with all.
        part: record of the part.
        shard: name of the shard.

    Raises:
        RunFailedError: the atlas does not have these targets yet.
    """

    def __init__(self, atlas: Atlas, part: RunRecord, shard: str) -> None:
        self.shard, self._adds_targets, targets = shard, part.first_target > 0, atlas.run.spec.target_names
        if targets != part.spec.target_names[: part.first_target or None]:
            raise RunFailedError(f"{atlas.url}: lacks maps of other targets; finish them: vitatlas run {atlas.url}")
        read = atlas.shard(shard)
        self._maps, self._arrays = read, dict[str, NDArray[Any]]()
        self.source, self.rows = read.commit.source, read.samples.to_pylist()
        # A text is a class of its own number in each batch, and a label that an image lacks has no map.
        self._class_ids = np.full((len(self.rows), len(part.spec.target_names)), -1)
        for place, target in enumerate(part.spec.target_names):
            if target in (*targets, "predicted"):
                self._class_ids[:, place] = class_ids(read.samples, target, targets).fill_null(-1).to_numpy()
        self._count, self._first, self._methods = len(targets), targets[0], tuple(part.methods)

    def read_file(self, shard: ShardRecord) -> ShardRecord:
        """Return the shard with what is known of the file that the atlas has read, which may not be the planned one."""
        source = self.source
        return replace(shard, size=source.size, fingerprint=source.fingerprint, listing=source.listing)

    def class_ids(self, ordinals: Sequence[int], computed: Tensor) -> Tensor:
        """Return the classes that the maps explain in the atlas, and the prediction in its tables: int64 [B, K].

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
        """Return the row of a sample in the atlas, with the columns of the targets that the part adds.

        Args:
            now: its row as it is computed now, for all targets.

        Raises:
            CorruptShardError: it has maps in the atlas, and another image, label or text now, or cannot be explained.
        """
        self.check_count(now["ordinal"] + 1)
        row = dict(self.rows[now["ordinal"]])
        if row["status"] != SampleStatus.OK:
            labels = {name: now[name] for name in ("label", "labels") if row[name] is None}
            return row | (labels if self._adds_targets else {})
        if now["status"] != SampleStatus.OK:
            raise CorruptShardError(
                f"{row['shard']}: {row['key']} has maps in the atlas and cannot be explained now ({now['error']}); "
                "restore its file, use the machine and the versions that the atlas was computed with, or plan another "
                "atlas for targets that not every sample has"
            )
        # Labels may not have been read where no target was a label.
        known = [name for name in _INPUTS if not (self._adds_targets and name in LABEL_COLUMNS and row[name] is None)]
        changed = [name for name in known if now[name] != row[name]]
        texts = [(values.get("target_texts") or [])[: self._count] for values in (now, row)]
        changed += ["target_texts"] * (texts[0] != texts[1])
        if changed:
            raise CorruptShardError(
                f"{row['shard']}: {' and '.join(changed)} of {row['key']}, which has maps in the atlas, changed; "
                "restore its file, or plan another atlas"
            )
        return row | (self._added_columns(row, now) if self._adds_targets else {})

    def copy_known(self, row: Mapping[str, Any], methods: Iterable[Method], slots: Mapping[str, NDArray[Any]]) -> None:
        """Copy the stored maps of a sample for targets whose class an earlier target explains.

        Args:
            row: of the sample.
            methods: that have not computed them, see ``Explainer.first_target``.
            slots: rows of the part by array, [slot, …].
        """
        if not self._adds_targets:
            return
        ordinal, known = row["ordinal"], self._class_ids[row["ordinal"], : self._count].tolist()
        added = row["target_classes"][self._count :]
        same = [(place, known.index(class_id)) for place, class_id in enumerate(added) if class_id in known]
        if not same:
            return
        places, earlier = (list(of_pairs) for of_pairs in zip(*same, strict=True))
        for method in methods:
            for name in arrays(method.name, method.extra_outputs):
                if name not in self._arrays:
                    self._arrays[name] = self._maps.array(name)
                slots[name][ordinal, places] = self._arrays[name][ordinal, earlier]

    @property
    def drift(self) -> dict[str, float]:
        """Errors of half precision of the maps that may be copied, by method, see ``CommitRecord.drift``."""
        if not self._adds_targets:
            return {}
        known = {name: self._maps.commit_of(name, self._first).drift for name in self._methods}
        return {name: of_commit[name] for name, of_commit in known.items() if name in of_commit}

    def _added_columns(self, row: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of a sample that further targets change; what is known of the others stays."""
        columns = {name: now.get(name) for name in LABEL_COLUMNS if row[name] is None}
        for name in TARGET_COLUMNS:
            known, computed = row[name], now.get(name)
            if computed is not None:
                columns[name] = [*([None] * self._count if known is None else known), *computed[self._count :]]
        return columns
