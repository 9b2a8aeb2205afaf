"""Training on tars: it goes on where it stopped, and says what it reached."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support import samples, write_tar

from pipeline.explain import DiffMask, explain
from pipeline.explain.artifacts import read
from pipeline.explain.load import Loaded, load
from pipeline.read import Frame, count, find
from pipeline.train.diffmask import DiffMaskLearner, DiffMaskTraining, Settings
from pipeline.train.fit import fit
from pipeline.train.stream import Stream
from schemas.artifact import Card
from schemas.errors import RunFailed, UsageError
from schemas.run import ModelSpec

STEPS = 7


@pytest.fixture
def loaded(checkpoint: ModelSpec) -> Loaded:
    return load(checkpoint)


def card(loaded: Loaded, **change: object) -> Card:
    content = {
        "method": "diffmask",
        "provenance": "Vision DiffMask",
        "model": loaded.record.name,
        "weights": loaded.record.weights,
        "settings": {"rate": 1e-3},
        "data": ("train.tar",),
        "steps": STEPS,
        "batch_size": 4,
        "seed": 0,
        "figures": {},
    }
    return Card(**(content | change))  # type: ignore[arg-type]


class Interrupted(Exception):
    pass


def train(loaded: Loaded, shards: str, out: Path, stop: int | None = None, **change: object) -> Card:
    learner = DiffMaskLearner(
        DiffMaskTraining(loaded.model, loaded.anatomy, Settings(rate=1e-3), 0), loaded.record.mean, loaded.record.std
    )
    stream = Stream(count(find((shards,))), Frame.of(loaded.record, "squash"), 4, None, 0)

    def progress(step: int, figures: object) -> None:
        if step == stop:
            raise Interrupted

    return fit(learner, stream, stream, card(loaded, **change), out, every=2, held_out_batches=2, progress=progress)


def test_an_artefact_says_what_was_reached_and_explains(loaded: Loaded, shards: str, tmp_path: Path) -> None:
    out = tmp_path / "gates.safetensors"
    reached = train(loaded, shards, out)
    assert set(reached.figures) == {"kl", "kept", "kl_shuffled"}
    assert read(str(out))[1] == reached
    images = torch.randn(2, 3, *loaded.anatomy.input_size)
    maps = explain(loaded.model, images, torch.zeros(2, 1, dtype=torch.int64), DiffMask.load(out))["diffmask"]
    assert ((maps > 0) & (maps < 1)).all()
    curves = pq.read_table(f"{out}.curves.parquet")
    assert curves["step"].to_pylist() == list(range(STEPS))
    assert {"divergence", "kept", "alpha", "depth", "loss"} < set(curves.column_names)
    assert Path(f"{out}.curves.png").stat().st_size > 5000
    assert not Path(f"{out}.checkpoint").exists()


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_training_that_is_interrupted_ends_with_the_same_bytes(
    loaded: Loaded, shards: str, tmp_path: Path, stop: int
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train(loaded, shards, whole)
    with pytest.raises(Interrupted):
        train(loaded, shards, parts, stop)
    assert not parts.exists()
    train(loaded, shards, parts)
    assert parts.read_bytes() == whole.read_bytes()
    assert pq.read_table(f"{parts}.curves.parquet") == pq.read_table(f"{whole}.curves.parquet")


def test_a_checkpoint_of_another_training_is_not_gone_on_with(loaded: Loaded, shards: str, tmp_path: Path) -> None:
    out = tmp_path / "gates.safetensors"
    with pytest.raises(Interrupted):
        train(loaded, shards, out, stop=3)
    with pytest.raises(UsageError, match="checkpoint: is of another training; remove it"):
        train(loaded, shards, out, seed=1)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    loaded: Loaded, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normalised = DiffMaskLearner._normalised
    count_ = 0

    def poisoned(self: DiffMaskLearner, images):
        nonlocal count_
        count_ += 1
        return normalised(self, images) * (float("nan") if count_ == 6 else 1)

    monkeypatch.setattr(DiffMaskLearner, "_normalised", poisoned)
    out = tmp_path / "gates.safetensors"
    with pytest.raises(
        RunFailed, match=r"the loss of step 5 is nan: .* last good one is .*gates.safetensors.checkpoint"
    ):
        train(loaded, shards, out)
    assert Path(f"{out}.checkpoint").exists()
    assert not out.exists()
    train(loaded, shards, out)


def test_a_batch_without_any_image_is_passed_over(loaded: Loaded, tmp_path: Path) -> None:
    members = samples(12)
    for place in range(12, 24, 3):  # the second four
        members[place] = (members[place][0], b"junk")
    shard = write_tar(tmp_path / "one.tar", members)
    reached = train(loaded, str(shard), tmp_path / "gates.safetensors")
    curves = pq.read_table(tmp_path / "gates.safetensors.curves.parquet")
    assert curves["batch"].to_pylist() == [0, 2, 3, 5, 6, 8, 9]
    assert reached.figures["kept"] > 0
