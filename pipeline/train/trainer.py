"""The loop that every explainer with weights learns in: steps, looks at held-out images, checkpoints, a card."""

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pipeline.explain import artifacts
from pipeline.read import DecoderPool
from pipeline.train.distributed import of_first, rank
from pipeline.train.image_stream import Images, Stream
from schemas.artifacts import ArtifactRecord
from schemas.base import differences
from schemas.errors import RunFailedError, UsageError

Progress = Callable[[int, Mapping[str, float]], None]
"""Called with the number of steps done and the figures of the last one."""


class Learner(Protocol):
    """What learns."""

    def session(self) -> AbstractContextManager[None]:
        """The network as learning needs it, and afterwards as it was; around all of the following."""

    def step(self, images: Images) -> Mapping[str, float]:
        """Learn from one batch; its figures. Raises FloatingPointError, with nothing changed, on a bad loss."""

    def evaluate(self, batches: Iterable[Images]) -> dict[str, float]:
        """Figures on images that were held out."""

    def shortfall(self, figures: Mapping[str, float]) -> float:
        """What held-out figures are judged by; less is better."""

    def state(self) -> dict[str, Any]:
        """Everything to go on from: tensors and numbers."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""

    def tensors(self) -> dict[str, Tensor]:
        """What the artefact holds."""


@dataclass
class Course:
    """How far a training has come.

    Attributes:
        steps: figures of each step.
        looks: figures on the held-out images, with the step they were taken after; the first before any step.
        best: least shortfall so far, the step it was found after, and what the artefact held then.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    looks: list[dict[str, float]] = field(default_factory=list)
    best: tuple[float, int, dict[str, Tensor]] | None = None

    @property
    def next(self) -> int:
        """Number of the batch to go on with."""
        return int(self.steps[-1]["batch"]) + 1 if self.steps else 0

    def tired(self, patience: int | None) -> bool:
        """Whether the last looks, as many as patience, have found nothing better."""
        if patience is None or self.best is None:
            return False
        return sum(look["step"] > self.best[1] for look in self.looks) >= patience


def fit(
    learner: Learner,
    stream: Stream,
    held_out: Stream,
    card: ArtifactRecord,
    out: Path,
    identity: dict[str, Any],
    *,
    every: int = 500,
    patience: int | None = None,
    decode_processes: int = 0,
    progress: Progress = lambda step, figures: None,
) -> ArtifactRecord:
    """Train for ``card.steps`` steps and write the artefact.

    Beside the artefact stand ``<out>.curves.parquet``, ``<out>.held-out.parquet`` and ``<out>.curves.png``; while
    it runs, ``<out>.checkpoint``, from which the same call goes on. Since order, depth, crops and noise depend on
    seed and step alone, that gives the same weights as training that was never interrupted. Of several processes
    the first writes, and the others learn with it.

    Args:
        card: all but the figures.
        identity: all that decides what is learnt; a checkpoint of anything else is not gone on with.
        every: steps between checkpoints, and between looks at the held-out images.
        patience: stop after so many looks without improvement, and keep the best; None goes to the end and
            keeps the last.
        decode_processes: 0 decodes in a thread beside the network.

    Returns:
        The card with its figures: on the held-out images, before training as ``<figure>_before``; and how often
        a sample was ``left_out`` for want of a picture or label.

    Raises:
        UsageError: a checkpoint of another training is there.
        RunFailedError: the loss was not finite, or a batch does not fit into memory; the last checkpoint is kept.
    """
    checkpoint = out.with_name(out.name + ".checkpoint")
    with DecoderPool(decode_processes) as pool, learner.session():
        course = _resumed(learner, identity, checkpoint)
        try:
            if not course.looks:
                _look(learner, held_out.epoch(pool), course)
            for images in islice(stream.read(pool, course.next), card.steps - len(course.steps)):
                if course.tired(patience):
                    break
                figures = dict(learner.step(images))
                course.steps.append({"batch": images.number, "left_out": images.left_out, **figures})
                progress(len(course.steps), figures)
                done = len(course.steps)
                if done % every == 0 or done == card.steps:
                    _look(learner, held_out.epoch(pool), course)
                    if done < card.steps and rank() == 0:
                        _save(learner, identity, course, checkpoint)
        except FloatingPointError as error:
            where = f"; the last good one is {checkpoint}" if checkpoint.exists() else ""
            raise RunFailedError(f"{error}: training stopped{where}; lower the learning rate") from None
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            raise RunFailedError(f"a batch does not fit into memory ({reason}); lower --batch-size") from None
        return _finished(learner, card, course, out, patience)


def _look(learner: Learner, batches: Iterable[Images], course: Course) -> None:
    reached = of_first(learner.evaluate(batches))
    if not reached:
        raise RunFailedError(
            "the held-out shards have no image that can be judged by; do they have pictures and labels?"
        )
    if not all(math.isfinite(value) for value in reached.values()):
        raise FloatingPointError(f"the held-out figures after step {len(course.steps)} are {reached}")
    course.looks.append({"step": len(course.steps), **reached})
    shortfall = learner.shortfall(reached)
    if course.best is None or shortfall < course.best[0]:
        course.best = shortfall, len(course.steps), learner.tensors()


def _finished(
    learner: Learner, card: ArtifactRecord, course: Course, out: Path, patience: int | None
) -> ArtifactRecord:
    first, last = course.looks[0], course.looks[-1]
    tensors = learner.tensors()
    if patience is not None and course.best is not None:
        tensors = course.best[2]
        last = next(look for look in course.looks if look["step"] == course.best[1])
    figures = last | {f"{name}_before": value for name, value in first.items() if name != "step"}
    figures["left_out"] = sum(step["left_out"] for step in course.steps)
    card = card.model_copy(update={"metrics": figures})
    if rank() == 0:
        _curves(course, out)
        artifacts.write_artifact(out, tensors, card)
        out.with_name(out.name + ".checkpoint").unlink(missing_ok=True)
    return card


def _save(learner: Learner, identity: dict[str, Any], course: Course, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"training": json.dumps(identity), "course": asdict(course), "state": learner.state()}, buffer)
    artifacts.put(path, buffer.getvalue())


def _resumed(learner: Learner, identity: dict[str, Any], path: Path) -> Course:
    """The course of a checkpoint; a new one without."""
    saved = of_first(_loaded(path) if rank() == 0 and path.exists() else None)
    if saved is None:
        return Course()
    differing = differences(json.loads(saved["training"]), json.loads(json.dumps(identity)))
    if differing:
        raise UsageError(
            f"{path}: is of another training: {'; '.join(differing[:3])}; remove it, or choose another --out"
        )
    learner.restore(saved["state"])
    return Course(**saved["course"])


def _loaded(path: Path) -> dict[str, Any]:
    try:
        # Tensors and numbers: nothing in it can run.
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one kind for bytes that are no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path}: cannot be read as a checkpoint ({reason}); remove it to begin anew") from None
    if not isinstance(saved, dict) or not {"training", "course", "state"} <= saved.keys():
        raise UsageError(f"{path}: cannot be read as a checkpoint (it is none); remove it to begin anew")
    return saved


def _curves(course: Course, out: Path) -> None:
    """Figures of every step and of every look, as tables and as a picture."""
    steps = pa.Table.from_pylist([{"step": step, **row} for step, row in enumerate(course.steps, 1)])
    looks = pa.Table.from_pylist(course.looks)
    pq.write_table(steps, out.with_name(out.name + ".curves.parquet"))
    pq.write_table(looks, out.with_name(out.name + ".held-out.parquet"))
    panels = [(table, name, style) for table, style in ((steps, "-"), (looks, "o-")) for name in table.column_names]
    panels = [panel for panel in panels if panel[1] not in ("step", "batch", "left_out", "depth")]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 2 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, squeeze=False)
    for axis, (table, name, style) in zip(axes.T.flat, panels, strict=False):
        x, y = table["step"].to_numpy(), table[name].to_numpy()
        if table is steps:
            axis.plot(x, y, ".", markersize=2, alpha=0.4)
            y = _smooth(y)
        axis.plot(x, y, style, linewidth=1, markersize=3)
        axis.set_ylabel(name if table is steps else f"{name}, held out")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.suptitle(
        "dots: each step; lines: means over a fiftieth of the training; with markers: held-out images", fontsize=9
    )
    figure.savefig(out.with_name(out.name + ".curves.png"))


def _smooth(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Means over a fiftieth of all steps around each."""
    reach = max(1, len(values) // 100)
    sums = np.concatenate([[0.0], values.cumsum()])
    low, high = (np.clip(np.arange(len(values)) + shift, 0, len(values)) for shift in (-reach, reach + 1))
    return (sums[high] - sums[low]) / (high - low)
