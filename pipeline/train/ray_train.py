"""Training on several processes with Ray Train: one per GPU, or one per core without GPUs."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from pipeline.run.ray_executor import cluster_capacity, ray_cluster
from pipeline.train.distributed import rank
from pipeline.train.prepare_training import PreparedTraining
from pipeline.train.train_worker import train_worker
from pipeline.train.trainer import ProgressCallback
from schemas.artifacts import ArtifactRecord
from schemas.errors import AtlasError, RunFailedError, UsageError


def train_on_ray(prepared: PreparedTraining, progress: ProgressCallback, address: str | None = None) -> ArtifactRecord:
    """Train on ``spec.workers`` processes with averaged gradients. Rank 0 writes; the storage must be shared.

    Args:
        prepared: training.
        progress: called after each step.
        address: address of the Ray cluster.

    Returns:
        Record of the artifact, with its metrics.

    Raises:
        UsageError: the cluster has too few GPUs or cores.
        RunFailedError: a worker died, or the loss was not finite; the last checkpoint is kept.
    """
    spec = prepared.spec
    with ray_cluster(address):
        available, on_gpu = cluster_capacity()
        if spec.workers > available:
            unit = "GPUs" if on_gpu else "cores"
            raise UsageError(f"--workers {spec.workers}: the cluster has {available} {unit}; lower --workers")
        storage = Path(spec.out).with_name(f".{Path(spec.out).name}.ray")
        messages = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _run_worker,
            train_loop_config={"prepared": prepared, "messages": messages},
            scaling_config=ScalingConfig(
                num_workers=spec.workers, use_gpu=on_gpu, resources_per_worker={"GPU": 1} if on_gpu else {"CPU": 1}
            ),
            run_config=RunConfig(name="train", storage_path=str(storage)),
        )
        results: list[ArtifactRecord | AtlasError] = []
        reader = threading.Thread(target=_read_messages, args=(messages, progress, results), daemon=True)
        reader.start()
        failure = None
        try:
            trainer.fit()
        except TrainingFailedError as error:
            failure = f"a worker died ({str(error).strip().splitlines()[-1]})"
        finally:
            messages.put(None)
            reader.join(timeout=30)
            messages.shutdown()
            shutil.rmtree(storage, ignore_errors=True)
    for result in results:
        if isinstance(result, AtlasError):
            raise result
    if not failure:
        for result in results:
            if isinstance(result, ArtifactRecord):
                return result
    raise RunFailedError(f"{failure or 'the workers ended without a result'}; run the same command again to resume")


def _run_worker(config: dict[str, Any]) -> None:
    """Train in a worker, and send progress, result or error to the driver."""
    messages: Queue = config["messages"]

    def report_progress(step: int, metrics: Mapping[str, float]) -> None:
        if rank() == 0:
            messages.put((step, dict(metrics)))

    try:
        record = train_worker(config["prepared"], str(get_device()), report_progress)
    except AtlasError as error:
        messages.put(error)
        raise  # stops the other workers, which wait for this one
    else:
        if rank() == 0:
            messages.put(record)


def _read_messages(messages: Queue, progress: ProgressCallback, results: list[ArtifactRecord | AtlasError]) -> None:
    """Pass progress on and collect results, until there is None."""
    while (message := messages.get()) is not None:
        if isinstance(message, tuple):
            progress(*message)
        else:
            results.append(message)
