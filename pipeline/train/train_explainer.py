"""Training of a learned method on shards, on one or several processes."""

from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.explain.artifacts import read_artifact
from pipeline.train.prepare_training import prepare_training
from pipeline.train.train_worker import train_worker
from pipeline.train.trainer import ProgressCallback
from schemas.artifacts import ArtifactRecord
from schemas.errors import UsageError
from schemas.training import TrainSpec


def train_explainer(
    spec: TrainSpec,
    progress: ProgressCallback,
    address: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> ArtifactRecord:
    """Train a learned method; see ``fit`` for the written files. A finished training is not repeated.

    Args:
        spec: training.
        progress: called after each step.
        address: address of the Ray cluster, if there are several workers.
        log: see ``prepare_training``.

    Returns:
        Record of the artifact, with its metrics.

    Raises:
        UsageError: see ``prepare_training``, or the output is of another training; nothing has been written then.
        RunFailedError: see ``fit``.
    """
    prepared = prepare_training(spec, log)
    out = prepared.spec.out
    if Path(out).exists():
        record = read_artifact(out).record
        if record is None or record.training_hash != prepared.digest:
            raise UsageError(f"{out}: exists, and is of another training; choose another --out, or remove it")
        return record
    if spec.workers == 1:
        return train_worker(prepared, "cuda" if torch.cuda.is_available() else "cpu", progress)
    from pipeline.train.ray_train import train_on_ray  # Ray is needed only here

    return train_on_ray(prepared, progress, address)
