"""Training on shards: it goes on where it stopped, and says what it reached."""

import signal
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support import samples, soak_after, write_tar

from pipeline.explain import TSCAM, DiffMask, PatchMask, explain
from pipeline.explain.artifacts import read_artifact
from pipeline.explain.load import LoadedModel, load_model
from pipeline.read import DecoderPool, PreprocessConfig, count_samples, expand_shards
from pipeline.train import trainer
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.image_stream import ImageStream
from pipeline.train.patch_mask_training import PatchMaskTraining
from pipeline.train.plot import plot_curves
from pipeline.train.trainer import TrainableExplainer, run_training_loop
from pipeline.train.tscam_training import TSCAMTraining
from schemas.artifacts import ArtifactRecord
from schemas.errors import RunFailedError, UsageError
from schemas.run import ModelSpec
from schemas.training import DiffMaskSettings, PatchMaskSettings, TSCAMSettings

STEPS = 7
METHODS = {"diffmask": DiffMask, "pm": PatchMask, "tscam": TSCAM}


@pytest.fixture
def loaded(checkpoint: ModelSpec) -> LoadedModel:
    return load_model(checkpoint)


@pytest.fixture(params=METHODS, scope="module")
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def record(loaded: LoadedModel, method: str, **change: object) -> ArtifactRecord:
    content = {
        "method": method,
        "provenance": "a test",
        "model": loaded.record.name,
        "weights": loaded.record.weights,
        "settings": {"learning_rate": 1e-3},
        "shards": ("train.tar",),
        "steps": STEPS,
        "batch_size": 4,
        "seed": 0,
        "metrics": {},
    }
    return ArtifactRecord(**(content | change))  # type: ignore[arg-type]


class InterruptedTrainingError(Exception):
    pass


def learner(method: str, checkpoint: ModelSpec) -> TrainableExplainer:
    loaded = load_model(checkpoint)  # its own, as a later process has
    if method == "diffmask":
        return DiffMaskTraining(loaded, DiffMaskSettings(learning_rate=1e-3, warmup_steps=0))
    if method == "tscam":
        return TSCAMTraining(loaded, TSCAMSettings(learning_rate=1e-3), STEPS)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    return PatchMaskTraining(loaded, PatchMaskSettings(learning_rate=1e-3), STEPS, (frame, frame))


def train(
    method: str,
    checkpoint: ModelSpec,
    shards: str,
    out: Path,
    stop: int | None = None,
    patience: int | None = None,
    made: TrainableExplainer | None = None,
    signalled: signal.Signals | None = None,
    **change: object,
) -> ArtifactRecord:
    loaded = load_model(checkpoint)
    classes = None if method == "diffmask" else loaded.record.classes
    stream = ImageStream(
        count_samples(expand_shards((shards,))), PreprocessConfig.for_model(loaded.record, "squash"), 4, classes, 0
    )

    def progress(step: int, figures: object) -> None:
        if step == stop:
            if signalled is None:
                raise InterruptedTrainingError
            signal.raise_signal(signalled)

    made = made or learner(method, checkpoint)
    about = record(loaded, method, **change)
    identity = {"steps": about.steps, "seed": about.seed}
    return run_training_loop(
        made, stream, stream, about, out, identity, eval_interval=2, patience=patience, progress=progress
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three shards of 5, 7 and 4 samples; a brace pattern."""
    folder = tmp_path_factory.mktemp("shards")
    for index, (first, count) in enumerate(((0, 5), (5, 7), (12, 4))):
        write_tar(folder / f"part-{index}.tar", samples(count, first))
    return str(folder / "part-{0..2}.tar")


@pytest.fixture(scope="module")
def whole(method: str, checkpoint: ModelSpec, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of an uninterrupted training; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "out.safetensors"
    train(method, checkpoint, shards, out)
    return out


FIGURES = {
    "diffmask": ({"kl", "kept", "agreement", "kl_shuffled"}, {"kl", "kept", "alpha", "depth", "loss"}),
    "pm": ({"accuracy", "ce"}, {"loss", "ce", "patch", "accuracy"}),
    "tscam": ({"accuracy", "ce", "network_accuracy"}, {"loss", "accuracy"}),
}


def test_an_artefact_says_what_was_reached_and_explains(
    method: str,
    loaded: LoadedModel,
    checkpoint: ModelSpec,
    shards: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "plot_curves", plot_curves)
    out = tmp_path / "out.safetensors"
    reached = train(method, checkpoint, shards, out)
    names, columns = FIGURES[method]
    assert set(reached.metrics) == names | {f"{name}_before" for name in names} | {"step", "left_out"}
    assert read_artifact(str(out)).record == reached
    images = torch.randn(2, 3, *loaded.anatomy.input_size)
    maps = explain(loaded.model, images, torch.zeros(2, 1, dtype=torch.int64), METHODS[method].load(out))[method]
    assert maps.isfinite().all()
    assert (maps.amax((2, 3)) > maps.amin((2, 3))).all()
    assert method == "tscam" or ((maps > 0) & (maps < 1)).all()  # the others are probabilities
    curves = pq.read_table(f"{out}.curves.parquet")
    assert curves["step"].to_pylist() == list(range(1, STEPS + 1))
    assert columns < set(curves.column_names)
    looks = pq.read_table(f"{out}.held-out.parquet")
    assert looks["step"].to_pylist() == [0, 2, 4, 6, 7]
    assert names < set(looks.column_names)
    assert Path(f"{out}.curves.png").stat().st_size > 5000
    assert not Path(f"{out}.checkpoint").exists()


@pytest.mark.parametrize("stop", soak_after(1, [3, 1, 4, 6]))
def test_training_that_is_interrupted_ends_with_the_same_bytes(
    method: str, checkpoint: ModelSpec, shards: str, whole: Path, tmp_path: Path, stop: int
) -> None:
    parts = tmp_path / "parts.safetensors"
    with pytest.raises(InterruptedTrainingError):
        train(method, checkpoint, shards, parts, stop)
    assert not parts.exists()
    train(method, checkpoint, shards, parts)
    assert parts.read_bytes() == whole.read_bytes()
    for table in ("curves", "held-out"):
        assert pq.read_table(f"{parts}.{table}.parquet") == pq.read_table(f"{whole}.{table}.parquet")


@pytest.mark.parametrize("number", soak_after(1, [signal.SIGINT, signal.SIGTERM]))
def test_a_signal_keeps_the_steps_that_were_made_since_the_last_evaluation(
    method: str, checkpoint: ModelSpec, shards: str, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    parts = tmp_path / "parts.safetensors"
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(method, checkpoint, shards, parts, stop=1, signalled=number)  # evaluations are every 2 steps
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    kept = torch.load(f"{parts}.checkpoint", weights_only=True)
    assert len(kept["state"]["steps"]) == 1
    train(method, checkpoint, shards, parts)
    assert parts.read_bytes() == whole.read_bytes()


def test_training_stops_early_and_keeps_the_best(
    method: str, checkpoint: ModelSpec, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out figures get better up to step 4, then worse: after two looks without better, 8 is the end."""
    made = learner(method, checkpoint)
    shortfalls = iter([5.0, 4.0, 3.0, 3.5, 3.0, 1.0])
    monkeypatch.setattr(made, "selection_metric", lambda figures: next(shortfalls))
    kept = {}
    monkeypatch.setattr(made, "tensors", lambda tensors=made.tensors: kept.setdefault(made.step_count, tensors()))
    out = tmp_path / "out.safetensors"
    reached = train(method, checkpoint, shards, out, patience=2, made=made, steps=20)
    assert reached.metrics["step"] == 4
    assert pq.read_table(f"{out}.curves.parquet").num_rows == 8
    assert all(torch.equal(tensor, kept[4][name]) for name, tensor in read_artifact(str(out)).tensors.items())


def test_a_checkpoint_of_another_training_is_not_gone_on_with(
    method: str, checkpoint: ModelSpec, shards: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(InterruptedTrainingError):
        train(method, checkpoint, shards, out, stop=3)
    with pytest.raises(UsageError, match="checkpoint: is of another training: seed is 0, not 1; remove it"):
        train(method, checkpoint, shards, out, seed=1)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    method: str, checkpoint: ModelSpec, shards: str, whole: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts.safetensors"
    made = learner(method, checkpoint)
    normalize = made.normalize

    class Poisoned:
        device = normalize.device

        def __call__(self, pixels):
            # No weight, label or mask is wrong: only what the network sees.
            return normalize(pixels) * (float("nan") if made.step_count == 5 else 1)

    made.normalize = Poisoned()
    says = (
        r"the loss of step 5 is nan: .* last good checkpoint is .*parts.safetensors.checkpoint; lower the learning rate"
    )
    with pytest.raises(RunFailedError, match=says):
        train(method, checkpoint, shards, parts, made=made)
    assert Path(f"{parts}.checkpoint").exists()
    assert not parts.exists()
    train(method, checkpoint, shards, parts)
    assert parts.read_bytes() == whole.read_bytes()


def test_a_batch_without_any_image_is_passed_over(checkpoint: ModelSpec, tmp_path: Path) -> None:
    members = samples(12)
    for place in range(12, 24, 3):  # the second four
        members[place] = (members[place][0], b"junk")
    shard = write_tar(tmp_path / "one.tar", members)
    reached = train("diffmask", checkpoint, str(shard), tmp_path / "gates.safetensors")
    curves = pq.read_table(tmp_path / "gates.safetensors.curves.parquet")
    assert curves["batch"].to_pylist() == [0, 2, 3, 5, 6, 8, 9]
    assert (curves["left_out"].to_pylist(), reached.metrics["left_out"]) == ([0, 4, 0, 4, 0, 4, 0], 12)
    assert reached.metrics["kept"] > 0


def test_tars_without_any_image_end_the_training(checkpoint: ModelSpec, tmp_path: Path) -> None:
    members = [(name, b"junk" if name.endswith("jpg") else data) for name, data in samples(6)]
    shard = write_tar(tmp_path / "one.tar", members)
    with pytest.raises(RunFailedError, match="6 samples have no usable image"):
        train("diffmask", checkpoint, str(shard), tmp_path / "gates.safetensors")
    frame = PreprocessConfig.for_model(load_model(checkpoint).record, "squash")
    with pytest.raises(RunFailedError, match="the training shards have no usable sample: 6 samples"):
        next(ImageStream(count_samples(expand_shards((str(shard),))), frame, 4, None, 0).iter_batches(DecoderPool(0)))


def test_held_out_figures_that_are_not_finite_stop_the_training(
    method: str, checkpoint: ModelSpec, shards: str, tmp_path: Path
) -> None:
    """A last step may wreck what no further step would notice."""
    made = learner(method, checkpoint)

    def wreck(images, step=made.step):
        figures = step(images)
        if made.step_count == 4:
            weights = made.gates if method == "diffmask" else made.model
            with torch.no_grad():
                for parameter in weights.parameters():
                    parameter.fill_(float("nan"))
        return figures

    made.step = wreck  # type: ignore[method-assign]
    out = tmp_path / "out.safetensors"
    with pytest.raises(RunFailedError, match=r"the held-out metrics after step 4 are .*nan.*last good checkpoint is"):
        train(method, checkpoint, shards, out, made=made, steps=4)
    assert not out.exists()
    assert Path(f"{out}.checkpoint").exists()


@pytest.mark.parametrize("content", [b"junk", None])
def test_a_checkpoint_that_is_none_is_named(
    method: str, checkpoint: ModelSpec, shards: str, tmp_path: Path, content: bytes | None
) -> None:
    out = tmp_path / "out.safetensors"
    if content is None:
        torch.save({"other": 1}, f"{out}.checkpoint")
    else:
        Path(f"{out}.checkpoint").write_bytes(content)
    says = "cannot be read as a checkpoint"
    with pytest.raises(UsageError, match=f"out.safetensors.checkpoint: {says}"):
        train(method, checkpoint, shards, out)


def test_half_precision_learns_as_full_does(method: str, checkpoint: ModelSpec, shards: str, tmp_path: Path) -> None:
    """And what is stored predicts what the network in training did: no cast of a weight outlives the weight."""
    made = learner(method, checkpoint)
    made.precision = "bfloat16"
    frame = PreprocessConfig.for_model(load_model(checkpoint).record, "squash")
    (images,) = islice(
        ImageStream(count_samples(expand_shards((shards,))), frame, 4, 10, 0).iter_batches(DecoderPool(0)), 1
    )
    with made.session():
        for _ in range(10):
            made.step(images)
        seen = made.evaluate([images])
    fresh = learner(method, checkpoint)
    fresh.precision = "bfloat16"
    fresh.load_state_dict(made.state_dict())
    with fresh.session():
        again = fresh.evaluate([images])
    assert seen == pytest.approx(again, rel=1e-6)
