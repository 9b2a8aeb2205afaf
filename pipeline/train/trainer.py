"""Training loop of all learned methods: steps, evaluations on held-out images, checkpoints, the artifact."""

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from pipeline.explain import artifacts
from pipeline.read import DecoderPool
from pipeline.train.distributed import broadcast_object, rank
from pipeline.train.image_stream import ImageStream, TrainingBatch
from pipeline.train.plot import plot_curves
from pipeline.utils.atomic_write import write_atomically
from pipeline.utils.interrupt import deferred_interrupt
from schemas.artifacts import ArtifactRecord
from schemas.base import differences
from schemas.errors import RunFailedError, UsageError

ProgressCallback = Callable[[int, Mapping[str, float]], None]
"""Called after each step with the number of finished steps and the metrics of the last one."""


class TrainableExplainer(Protocol):
    """Learned method during training."""

    def session(self) -> AbstractContextManager[None]:
        """Put the model into its training state, and restore it afterwards. Encloses all other calls."""

    def step(self, batch: TrainingBatch) -> Mapping[str, float]:
        """Train on one batch and return its metrics.

        Raises:
            FloatingPointError: the loss is not finite. Nothing has been changed.
        """

    def evaluate(self, batches: Iterable[TrainingBatch]) -> dict[str, float]:
        """Return metrics on held-out images."""

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """Return the number that selects the best weights, from held-out metrics; lower is better."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that training needs to resume: tensors and numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the artifact."""

    def warnings(self, metrics: Mapping[str, float]) -> list[str]:
        """Return what the metrics of an artifact say against its use, with their values."""


@dataclass
class TrainState:
    """Progress of a training.

    Attributes:
        steps: metrics of each step.
        evaluations: metrics on the held-out images, with the number of steps before; the first is before any step.
        best: lowest selection metric so far, its number of steps, and the artifact's tensors then.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best: tuple[float, int, dict[str, Tensor]] | None = None

    @property
    def next_batch(self) -> int:
        """Index of the batch to resume with."""
        return int(self.steps[-1]["batch"]) + 1 if self.steps else 0

    def should_stop_early(self, patience: int | None) -> bool:
        """Return whether the last ``patience`` evaluations brought no improvement."""
        if patience is None or self.best is None:
            return False
        return sum(evaluation["step"] > self.best[1] for evaluation in self.evaluations) >= patience


def run_training_loop(
    explainer: TrainableExplainer,
    stream: ImageStream,
    held_out: ImageStream,
    record: ArtifactRecord,
    out: Path,
    identity: dict[str, Any],
    *,
    eval_interval: int = 500,
    patience: int | None = None,
    decode_processes: int = 0,
    progress: ProgressCallback = lambda step, metrics: None,
) -> ArtifactRecord:
    """Train for ``record.steps`` steps and write the artifact.

    Next to the artifact are written ``<out>.curves.parquet``, ``<out>.held-out.parquet`` and ``<out>.curves.png``;
    during training also ``<out>.checkpoint``, from which the same call resumes. Order, depth, crops and noise depend on
    seed and step alone, so a resumed training gives the same weights as an uninterrupted one. Of several processes,
    rank 0 writes.

    Args:
        explainer: learned method.
        stream: training images.
        held_out: images of the evaluations.
        record: record of the artifact, without metrics.
        out: file of the artifact.
        identity: everything that decides the result; a checkpoint with another identity is refused.
        eval_interval: steps between checkpoints, and between evaluations on held-out images.
        patience: number of evaluations without improvement after which training stops, and the best weights are kept;
            None trains to the end and keeps the last.
        decode_processes: processes that decode images; 0 decodes in a thread of this one.
        progress: called after each step.

    Returns:
        The record with its metrics: on the held-out images, before training as ``<metric>_before``; and the number of
        samples ``left_out`` because they lack an image or a label. And with its warnings.

    Raises:
        UsageError: there is a checkpoint of another training.
        RunFailedError: the loss was not finite, or a batch does not fit into memory; the last checkpoint is kept.
    """
    checkpoint = out.with_name(out.name + ".checkpoint")
    with DecoderPool(decode_processes) as decoders, explainer.session(), deferred_interrupt() as interrupt:
        state = _resume(explainer, identity, checkpoint)
        try:
            if not state.evaluations:
                _evaluate(explainer, held_out, decoders, state)
            for batch in islice(stream.iter_batches(decoders, state.next_batch), record.steps - len(state.steps)):
                if state.should_stop_early(patience):
                    break
                metrics = dict(explainer.step(batch))
                state.steps.append({"batch": batch.index, "left_out": batch.left_out, **metrics})
                done = len(state.steps)
                progress(done, metrics)
                if done % eval_interval == 0 or done == record.steps:
                    _evaluate(explainer, held_out, decoders, state)
                if rank() == 0 and done < record.steps and (interrupt.is_set or done % eval_interval == 0):
                    _save_checkpoint(explainer, identity, state, checkpoint)
                if interrupt.is_set and done < record.steps:
                    raise KeyboardInterrupt
        except FloatingPointError as error:
            last = f"; the last good checkpoint is {checkpoint}" if checkpoint.exists() else ""
            raise RunFailedError(f"{error}: training stopped{last}; lower the learning rate") from None
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise RunFailedError(f"a batch does not fit into memory ({reason}); lower --batch-size") from None
        return _finish(explainer, record, state, out, patience)


def clip_gradients(parameters: Iterable[nn.Parameter], step: int, max_norm: float = float("inf")) -> None:
    """Clip the norm of gradients.

    Args:
        parameters: parameters with gradients.
        step: number of the step, for the message.
        max_norm: largest norm.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradients of step {step} are {float(norm)}")


def warmup_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Return the factor of the learning rate in a step: linear warm-up, then cosine decay.

    Args:
        step: number of steps before.
        warmup_steps: steps of the warm-up.
        steps: number of steps of the whole training.
    """
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def _evaluate(explainer: TrainableExplainer, held_out: ImageStream, decoders: DecoderPool, state: TrainState) -> None:
    metrics = broadcast_object(explainer.evaluate(held_out.iter_epoch(decoders)))
    if not metrics:
        raise RunFailedError(f"the held-out shards have no usable sample: {held_out.describe_faults()}")
    if not all(math.isfinite(value) for value in metrics.values()):
        raise FloatingPointError(f"the held-out metrics after step {len(state.steps)} are {metrics}")
    state.evaluations.append({"step": len(state.steps), **metrics})
    value = explainer.selection_metric(metrics)
    if state.best is None or value < state.best[0]:
        state.best = value, len(state.steps), explainer.tensors()


def _finish(
    explainer: TrainableExplainer, record: ArtifactRecord, state: TrainState, out: Path, patience: int | None
) -> ArtifactRecord:
    first, last = state.evaluations[0], state.evaluations[-1]
    tensors = explainer.tensors()
    if patience is not None and state.best is not None:
        tensors = state.best[2]
        last = next(evaluation for evaluation in state.evaluations if evaluation["step"] == state.best[1])
    metrics = last | {f"{name}_before": value for name, value in first.items() if name != "step"}
    metrics["left_out"] = sum(step["left_out"] for step in state.steps)
    warnings = explainer.warnings(metrics)
    if not metrics["step"]:
        warnings.append("no evaluation was better than before training: the initial weights are stored")
    record = record.model_copy(update={"metrics": metrics, "warnings": tuple(warnings)})
    if rank() == 0:
        _write_curves(state, out)
        artifacts.write_artifact(out, tensors, record)
        out.with_name(out.name + ".checkpoint").unlink(missing_ok=True)
    return record


def _save_checkpoint(explainer: TrainableExplainer, identity: dict[str, Any], state: TrainState, path: Path) -> None:
    buffer = io.BytesIO()
    content = {"identity": json.dumps(identity), "state": asdict(state), "explainer": explainer.state_dict()}
    torch.save(content, buffer)
    write_atomically(str(path), buffer.getvalue())


def _resume(explainer: TrainableExplainer, identity: dict[str, Any], path: Path) -> TrainState:
    """Return the state of a checkpoint, or a new one without."""
    checkpoint = broadcast_object(_load_checkpoint(path) if rank() == 0 and path.exists() else None)
    if checkpoint is None:
        return TrainState()
    differing = differences(json.loads(checkpoint["identity"]), json.loads(json.dumps(identity)))
    if differing:
        raise UsageError(
            f"{path}: is of another training: {'; '.join(differing[:3])}; remove it, or choose another --out"
        )
    explainer.load_state_dict(checkpoint["explainer"])
    return TrainState(**checkpoint["state"])


def _load_checkpoint(path: Path) -> dict[str, Any]:
    try:
        # With weights_only, nothing in the file is executed.
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common error for invalid files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path}: cannot be read as a checkpoint ({reason}); remove it to start again") from None
    if not isinstance(checkpoint, dict) or not {"identity", "state", "explainer"} <= checkpoint.keys():
        raise UsageError(f"{path}: cannot be read as a checkpoint (fields are missing); remove it to start again")
    return checkpoint


def _write_curves(state: TrainState, out: Path) -> None:
    """Write the metrics of all steps and evaluations as tables and as a plot."""
    steps = pa.Table.from_pylist([{"step": step, **metrics} for step, metrics in enumerate(state.steps, 1)])
    evaluations = pa.Table.from_pylist(state.evaluations)
    pq.write_table(steps, out.with_name(out.name + ".curves.parquet"))
    pq.write_table(evaluations, out.with_name(out.name + ".held-out.parquet"))
    out.with_name(out.name + ".curves.png").write_bytes(plot_curves(steps, evaluations))
