"""Maps that are computed again are those that are stored, and what is not is measured."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from support import FAST, jpeg, recommit, samples, write_tar

from pipeline.audit.reproducibility import build_reproducibility_table
from pipeline.run.worker import Worker
from pipeline.store import Atlas
from schemas.audit_tables import OTHER_BATCH, REPRODUCIBILITY, SAME_BATCH
from schemas.errors import UsageError


def test_a_rerun_is_equal_bit_by_bit_and_another_batch_size_next_to_nothing_off(finished: Path) -> None:
    table = build_reproducibility_table(Atlas.open(str(finished)))
    assert table.schema.equals(REPRODUCIBILITY)
    rows = table.to_pylist()
    whose = [(None, None), *((method, target) for method in FAST for target in ("label", "predicted"))]
    assert [(row["method"], row["target"]) for row in rows] == whose * 2
    assert [(row["kind"], row["batch_size"]) for row in rows] == [(SAME_BATCH, 4)] * 7 + [(OTHER_BATCH, 1)] * 7
    for row in rows:
        assert (row["sampled"], row["recomputed"]) == (16, 16)
        if row["kind"] == SAME_BATCH:
            assert (row["equal_share"], row["max_difference"], row["mean_difference"]) == (1, 0, 0)
        assert row["max_difference"] < 1e-3
        if row["method"]:
            assert row["min_spearman"] > 0.99
            assert row["min_spearman"] <= row["mean_spearman"] <= 1


def test_what_was_changed_is_measured_and_told_apart_by_method_and_target(finished: Path) -> None:
    maps = zarr.open_group(str(finished / "maps.zarr"), mode="r+")["legrad"]
    before = maps[2, 0]
    maps[2, 0] = before[::-1, ::-1]
    recommit(finished)
    found = {
        (row["kind"], row["method"], row["target"]): row
        for row in build_reproducibility_table(Atlas.open(str(finished))).to_pylist()
    }
    changed = found[SAME_BATCH, "legrad", "label"]
    assert changed["equal_share"] == 15 / 16
    assert changed["max_difference"] == np.abs(before.astype(float) - before[::-1, ::-1]).max()
    assert changed["min_spearman"] < 0.9
    for whose in ((SAME_BATCH, "legrad", "predicted"), (SAME_BATCH, "attention", "label"), (SAME_BATCH, None, None)):
        assert found[whose]["equal_share"] == 1


def test_the_share_of_a_batch_is_reported_at_once_and_an_image_alone_takes_twice_as_long(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, expected = list[float](), list[float]()
    monkeypatch.setattr("pipeline.audit.reproducibility.report_share", shares.append)
    build_reproducibility_table(Atlas.open(str(finished)))
    for batches in ([4, 1], [4, 3], [4]):
        images = sum(batches)
        expected += [0, *(batch / images / 3 for batch in batches), *[2 / images / 3] * images]
    assert shares == pytest.approx(expected)


def test_only_batches_that_are_needed_are_computed(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[int] = []
    original = Worker._start_batch

    def counting(self: Worker, batch):  # type: ignore[no-untyped-def]
        explained.append(len(batch.samples))
        return original(self, batch)

    monkeypatch.setattr(Worker, "_start_batch", counting)
    table = build_reproducibility_table(Atlas.open(str(finished)), rows=8, methods=["legrad"])
    assert set(table["recomputed"].to_pylist()) == {8}
    batches = len(explained) - 8  # beside each sample alone
    assert batches in (2, 3)  # of 5


def test_a_tar_that_is_gone_or_holds_other_pictures_is_told_of(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "shards" / "part-1.tar").unlink()
    members = samples(4, 12)
    members[0] = (members[0][0], jpeg(99))
    write_tar(tmp_path / "shards" / "part-2.tar", members)
    said: list[str] = []
    table = build_reproducibility_table(Atlas.open(str(finished)), log=said.append)
    assert said[0] == "16 samples of 3 shards are recomputed twice, by 3 methods"
    assert [note.split(":")[0] for note in said[1:]] == ["part-1", "part-2"]
    assert "s0012 cannot be recomputed: its image has changed" in said[2]
    assert set(table["sampled"].to_pylist()) == {16}
    assert set(table["recomputed"].to_pylist()) == {5 + 3}


def test_no_such_method_is_refused(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="has no maps of 'nothing'"):
        build_reproducibility_table(atlas, methods=["nothing"])
