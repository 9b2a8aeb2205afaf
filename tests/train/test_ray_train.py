"""Two workers under Ray Train learn as one would from the images of both, on average."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import samples, write_tar

from pipeline.explain.artifacts import read_artifact
from pipeline.explain.load import load_model
from pipeline.read import DecoderPool, PreprocessConfig
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.image_stream import ImageStream, TrainingBatch
from pipeline.train.masked_images import MaskedImages
from pipeline.train.patch_mask_training import PatchMaskTraining
from pipeline.train.prepare_training import PreparedTraining, prepare_training
from pipeline.train.train_explainer import train_explainer
from pipeline.train.tscam_training import TSCAMTraining
from schemas.errors import RunFailedError, UsageError
from schemas.run import ModelSpec
from schemas.training import DiffMaskSettings, PatchMaskSettings, TrainSpec, TSCAMSettings

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("ray_cluster")]
STEPS = 5


@pytest.fixture
def spec(shards: str, checkpoint: ModelSpec, tmp_path: Path) -> TrainSpec:
    held_out = write_tar(tmp_path / "held" / "out.tar", samples(6, 100))
    return TrainSpec(
        model=checkpoint,
        shards=(shards,),
        held_out=(str(held_out),),
        out=str(tmp_path / "out.safetensors"),
        settings=DiffMaskSettings(learning_rate=1e-3, warmup_steps=0),
        steps=STEPS,
        batch_size=3,
        eval_interval=2,
        workers=2,
    )


def streams(
    prepared: PreparedTraining, pool: DecoderPool, classes: int | None, frame: PreprocessConfig
) -> list[list[TrainingBatch]]:
    """What each worker reads."""
    of = [ImageStream(prepared.shards, frame, 3, classes, 0, rank, 2) for rank in range(2)]
    return [list(islice(stream.iter_batches(pool), STEPS)) for stream in of]


def averaged(parts: list[tuple[torch.Tensor, dict[str, float]]]) -> tuple[torch.Tensor, dict[str, float]]:
    losses, figures = zip(*parts, strict=True)
    return sum(losses) / 2, {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}


def test_gates_of_two_workers_are_those_of_one_on_average(spec: TrainSpec) -> None:
    told: list[int] = []
    card = train_explainer(spec, lambda step, figures: told.append(step))
    assert told == list(range(1, STEPS + 1))
    assert (card.workers, set(card.metrics) >= {"kl", "kept"}) == (2, True)
    one = DiffMaskTraining(load_model(spec.model), spec.settings)  # type: ignore[arg-type]
    read_by = streams(
        prepare_training(spec),
        DecoderPool(0),
        None,
        PreprocessConfig.for_model(load_model(spec.model).record, "squash"),
    )
    with one.session():
        for images in zip(*read_by, strict=True):
            depth = one.sample_depth()
            parts = [
                one.compute_loss(one.normalize(each.pixels), None, depth, rank) for rank, each in enumerate(images)
            ]
            loss, figures = averaged(parts)
            one.update(loss, depth, figures)
    _same(one.tensors(), spec.out)


def test_a_patch_mask_network_of_two_workers_is_that_of_one_on_average(spec: TrainSpec, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(16):
        _mask(masks / f"s{number:04d}.png", 40 + number % 7, 30 + number % 5)
    settings = PatchMaskSettings(learning_rate=1e-3, warmup_steps=0)
    asked: dict[str, Any] = {"settings": settings, "masks": {"truth": str(masks)}}
    spec = TrainSpec(**(spec.model_dump() | asked))
    train_explainer(spec, lambda step, figures: None)
    loaded = load_model(spec.model)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    learning = PreprocessConfig(round(1.5 * frame.width), round(1.5 * frame.height), *list(vars(frame).values())[2:])
    one = PatchMaskTraining(loaded, settings, STEPS, (learning, frame))
    prepared, pool = prepare_training(spec), DecoderPool(0)
    from pipeline.train.mask_sources import open_truth_masks
    from pipeline.train.masked_images import MaskedImagePool

    pools = [
        MaskedImagePool.load(
            ImageStream(prepared.shards, learning, 3, 10, 0, rank, 2), open_truth_masks(str(masks)), pool
        )
        for rank in range(2)
    ]
    with one.session():
        for images in zip(*streams(prepared, pool, 10, learning), strict=True):
            parts = []
            for rank, each in enumerate(images):
                batch = MaskedImages.from_batch(each, None, learning)
                batch = batch + pools[rank].sample(len(batch), one.step_count, (0, rank))
                parts.append(one.compute_loss(batch, rank))
            one.update(*averaged(parts))
    _same(one.tensors(), spec.out)


@pytest.mark.parametrize("backbone", ["fine-tuned", "frozen"])
def test_ts_cam_of_two_workers_is_that_of_one_on_average(spec: TrainSpec, backbone: Any) -> None:
    settings = TSCAMSettings(learning_rate=1e-3, warmup_steps=0, backbone=backbone)
    spec = spec.model_copy(update={"settings": settings})
    train_explainer(spec, lambda step, figures: None)
    loaded = load_model(spec.model)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    learning = replace(frame, width=round(1.5 * frame.width), height=round(1.5 * frame.height))
    one = TSCAMTraining(loaded, settings, STEPS)
    with one.session():
        for images in zip(*streams(prepare_training(spec), DecoderPool(0), 10, learning), strict=True):
            parts = [one.compute_loss(*one.crop(each, rank)) for rank, each in enumerate(images)]
            one.update(*averaged(parts))
    _same(one.tensors(), spec.out)


def _mask(path: Path, width: int, height: int) -> None:
    from PIL import Image

    values = np.zeros((height, width), np.uint8)
    values[5:20, 8:30] = 1
    Image.fromarray(values).save(path)


def _same(expected: dict[str, torch.Tensor], out: str) -> None:
    found = read_artifact(out).tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), name


def test_more_workers_than_cores_are_refused(spec: TrainSpec) -> None:
    with pytest.raises(UsageError, match="--workers 3: the cluster has 2 cores"):
        train_explainer(spec.model_copy(update={"workers": 3}), lambda step, figures: None)


def test_what_goes_wrong_in_a_worker_comes_back_as_it_is(spec: TrainSpec) -> None:
    Path(f"{spec.out}.checkpoint").write_bytes(b"junk")
    with pytest.raises(
        (UsageError, RunFailedError), match=r"out.safetensors.checkpoint: cannot be read as a checkpoint"
    ):
        train_explainer(spec, lambda step, figures: None)
    assert not Path(spec.out).exists()
