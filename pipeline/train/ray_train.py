"""A training on several processes under Ray Train: one to a GPU, or one to a core where there is no GPU."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue

from pipeline.run.ray_executor import capacity, cluster
from pipeline.train.distributed import rank
from pipeline.train.train_explainer import PreparedTraining, take_part
from pipeline.train.trainer import Progress
from schemas.artifacts import ArtifactRecord
from schemas.errors import AtlasError, RunFailedError, UsageError


def over_workers(prepared: PreparedTraining, progress: Progress, address: str | None = None) -> ArtifactRecord:
    """Train on ``spec.workers`` processes, whose gradients are averaged. The first writes, on storage all can reach.

    Raises:
        UsageError: there is no room for so many.
        RunFailedError: a worker died, or the loss was not finite; the last checkpoint is kept.
    """
    spec = prepared.spec
    with cluster(address):
        room, on_gpu = capacity()
        if spec.workers > room:
            raise UsageError(f"--workers {spec.workers}: the cluster has {room} {'GPUs' if on_gpu else 'cores'}")
        storage = Path(spec.out).with_name(f".{Path(spec.out).name}.ray")
        news = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _work,
            train_loop_config={"prepared": prepared, "news": news},
            scaling_config=ScalingConfig(
                num_workers=spec.workers, use_gpu=on_gpu, resources_per_worker={"GPU": 1} if on_gpu else {"CPU": 1}
            ),
            run_config=RunConfig(name="train", storage_path=str(storage)),
        )
        ended: list[Any] = []
        reader = threading.Thread(target=_follow, args=(news, progress, ended), daemon=True)
        reader.start()
        died = None
        try:
            trainer.fit()
        except TrainingFailedError as error:
            died = f"a worker died ({str(error).strip().splitlines()[-1]})"
        finally:
            news.put(None)
            reader.join(timeout=30)
            news.shutdown()
            shutil.rmtree(storage, ignore_errors=True)
    wrong = next((each for each in ended if isinstance(each, AtlasError)), None)
    if wrong is not None:
        raise wrong
    if died or not ended:
        raise RunFailedError(f"{died or 'the workers ended without a word'}; run the same command again to go on")
    return ended[0]


def _work(config: dict[str, Any]) -> None:
    """What each process does."""
    news: Queue = config["news"]

    def tell(step: int, figures: Mapping[str, float]) -> None:
        if rank() == 0:
            news.put((step, dict(figures)))

    try:
        card = take_part(config["prepared"], str(get_device()), tell)
    except AtlasError as error:
        news.put(error)
        raise  # so that the others, who wait for this one, are stopped
    else:
        if rank() == 0:
            news.put(card)


def _follow(news: Queue, progress: Progress, ended: list[Any]) -> None:
    """Hand on what the workers tell, until there is nothing more."""
    while (item := news.get()) is not None:
        if isinstance(item, tuple):
            progress(*item)
        else:
            ended.append(item)
