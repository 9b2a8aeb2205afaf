"""What tests of the report are of: a small world with a shortcut, wrong labels, a broken picture, and hostile names."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.demo.scenes import CLASSES, SHORTCUT_CLASS
from pipeline.store import Atlas
from schemas.audit_tables import REPRODUCIBILITY
from schemas.metrics import METRIC_SUMMARY, OWN_WEIGHTS
from schemas.rank import LocalizationScore, RankedMethod, RankRecord, SignalCheck
from schemas.scores import LOCALIZATION, SCORES, is_control

METHODS = ("attention", "rollout", "legrad", "center", "uniform")
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(2)>',
    "</script><script>alert(3)</script>",
    "{{ 7 * 7 }}' onclick='alert(4)",
)
NAMES = tuple(
    {0: "<script>alert(5)</script>", SHORTCUT_CLASS: "<img src=x onerror=alert(6)>"}.get(index, each.name)
    for index, each in enumerate(CLASSES)
)
WRONG = (5, 17, 29, 41, 70)
"""Scenes whose label is another than their class."""
BROKEN = 9


@dataclass(frozen=True)
class Reported:
    """A report and what it is of."""

    atlas: Atlas
    audit: Path

    @property
    def folder(self) -> Path:
        return self.audit / "report"


def spoil(path: Path, first: int) -> None:
    """Hostile keys for the first samples of a shard, wrong labels and a broken picture for some."""
    with tarfile.open(path) as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive]
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            number, extension = int(name[6:12]), name.partition(".")[2]
            key = HOSTILE[number - first] if number - first < len(HOSTILE) else f"scene_{number:06d}"
            if extension == "cls" and number in WRONG:
                data = str((int(data) + 1) % len(CLASSES)).encode()
            if extension == "jpg" and number == BROKEN:
                data = data[:100]
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def ranking(run: str) -> RankRecord:
    """A ranking whose values are made up."""
    check = SignalCheck(valid=True, reason=f"the network recognises {HOSTILE[0]}")
    rows = [
        RankedMethod(
            method=method,
            kind="control" if is_control(method) else "method",
            verdict=None if is_control(method) else "stands",
            reason=HOSTILE[place % len(HOSTILE)],
            rank=0.5 if place else None,
            rank_low=0.4 if place else None,
            rank_high=0.6 if place else None,
            degenerate=0,
            isolated=0,
            same_for_classes=None,
            signals={},
            localization=LocalizationScore(score="pxap", value=60, low=50, high=70) if place else None,
        )
        for place, method in enumerate(METHODS)
    ]
    truth = "<b>truth</b>", "sha256:1"
    return RankRecord(
        run=run, target="label", images=9, seed=0, signals={"crop": check}, methods=tuple(rows), truth=truth
    )


def summary(figures: tuple[str, ...]) -> pa.Table:
    rows = [
        {
            "method": method,
            "target": target,
            "metric": figure,
            "better": "lower" if figure == "deletion" else "higher",
            "images": 10,
            "mean": 0.1 * place + (target == "predicted"),
            "low": 0.1 * place - 0.05,
            "high": 0.1 * place + 0.05,
            "note": OWN_WEIGHTS if (method, figure) == ("rollout", "mprt") else None,
        }
        for place, method in enumerate(METHODS)
        for target in ("label", "predicted")
        for figure in figures
    ]
    return pa.Table.from_pylist(rows, METRIC_SUMMARY)


def localization() -> pa.Table:
    rows = []
    for place, method in enumerate((*METHODS, "whole image")):
        values = dict.fromkeys(SCORES, 50.0 - 5 * place) | {"top1_loc": None}
        row = {"method": method, "kind": "method", "target": "label", "source": "atlas", "network": "model"}
        counts = ("images", "masks", "test_images", "tuning_images", "without_maps", "without_object")
        interval = {name: [40.0 - 5 * place, 60.0 - 5 * place] for name in SCORES}
        rows.append(row | dict.fromkeys(counts, 128) | values | {"interval": interval})
    return pa.Table.from_pylist(rows, LOCALIZATION)


def completeness() -> pa.Table:
    """Of two shards, with a reason that is hostile."""
    return pa.table(
        {
            "shard": ["a", "b", "b"],
            "kind": ["samples"] * 3,
            "method": pa.nulls(3, pa.string()),
            "status": ["ok", "ok", "undecodable"],
            "reason": [None, None, HOSTILE[0]],
            "count": [130, 129, 1],
            "expected": [130, 130, 130],
        }
    )


def reproduced() -> pa.Table:
    """The same with the run's batches; with others a little off, but for a method without any map."""
    whose = [(None, None), ("legrad", "label"), ("legrad", "predicted"), ("rollout", "label"), ("uniform", "label")]
    rows = [
        {"kind": kind, "batch_size": size, "method": method, "target": target, "sampled": 10, "recomputed": 9}
        | {"equal_share": 1 - off, "max_difference": off / 1000, "mean_difference": off / 2000, "mean_spearman": 1.0}
        | {"min_spearman": None if method == "uniform" else 0.99}
        for kind, size, off in (("same_batch", 32, 0.0), ("other_batch", 1, 0.5))
        for method, target in whose
    ]
    return pa.Table.from_pylist(rows, REPRODUCIBILITY)
