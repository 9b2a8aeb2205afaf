"""The loop that every explainer with weights learns in: steps, checkpoints, curves, a card at the end."""

import io
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.explain import artifacts
from pipeline.explain.undisturbed import undisturbed
from pipeline.read import decoders
from pipeline.train.stream import Images, Stream
from schemas.artifact import Card
from schemas.errors import RunFailed, UsageError

Progress = Callable[[int, Mapping[str, float]], None]
"""Called with the number of steps done and the figures of the last one."""


class Learner(Protocol):
    """What learns.

    Attributes:
        model: the network, which must be ``undisturbed`` around every call.
    """

    model: Any

    def step(self, images: Images) -> Mapping[str, float]:
        """Learn from one batch; its figures. Raises FloatingPointError, with nothing changed, on a bad loss."""

    def evaluate(self, batches: Iterator[Images]) -> dict[str, float]:
        """Figures on images that were held out."""

    def state(self) -> dict[str, Any]:
        """Everything to go on from: tensors and numbers."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""

    def tensors(self) -> dict[str, Tensor]:
        """What the artefact holds."""


def fit(
    learner: Learner,
    stream: Stream,
    held_out: Stream,
    card: Card,
    out: Path,
    *,
    every: int = 200,
    held_out_batches: int = 8,
    progress: Progress = lambda step, figures: None,
) -> Card:
    """Train for ``card.steps`` steps and write the artefact.

    Beside the artefact stand ``<out>.curves.parquet`` and ``<out>.curves.png``; while it runs, ``<out>.checkpoint``,
    from which the same call goes on. Since order, depth and noise depend on seed and step alone, that gives the
    same weights as training that was never interrupted.

    Args:
        card: all but the figures.
        every: steps between checkpoints.
        held_out_batches: how many are evaluated at the end.

    Returns:
        The card with its figures.

    Raises:
        UsageError: a checkpoint of another training is there.
        RunFailed: the loss was not finite; the last checkpoint is kept.
    """
    checkpoint = out.with_name(out.name + ".checkpoint")
    rows = _resume(learner, card, checkpoint)
    pool = decoders(0)
    with undisturbed(learner.model):
        begin = int(rows[-1]["batch"]) + 1 if rows else 0
        for images in islice(stream.read(pool, begin), card.steps - len(rows)):
            try:
                figures = dict(learner.step(images))
            except FloatingPointError as error:
                where = f"; the last good one is {checkpoint}" if checkpoint.exists() else ""
                raise RunFailed(f"{error}: training stopped{where}; lower the learning rate") from None
            rows.append({"batch": images.number, **figures})
            progress(len(rows), figures)
            if len(rows) % every == 0 and len(rows) < card.steps:
                _save(learner, card, rows, checkpoint)
        reached = learner.evaluate(islice(held_out.read(pool), held_out_batches))
    card = card.model_copy(update={"figures": reached})
    _curves(rows, out)
    artifacts.write(out, learner.tensors(), card)
    checkpoint.unlink(missing_ok=True)
    return card


def _save(learner: Learner, card: Card, rows: list[dict[str, float]], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"card": card.to_bytes().decode(), "rows": rows, "state": learner.state()}, buffer)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)


def _resume(learner: Learner, card: Card, path: Path) -> list[dict[str, float]]:
    """Figures of the steps that a checkpoint has; none without one."""
    if not path.exists():
        return []
    saved = torch.load(path, weights_only=True)  # tensors and numbers: nothing in it can run
    if saved["card"] != card.to_bytes().decode():
        raise UsageError(f"{path}: is of another training; remove it, or choose another --out")
    learner.restore(saved["state"])
    return list(saved["rows"])


def _curves(rows: list[dict[str, float]], out: Path) -> None:
    """Figures of every step, as a table and as a picture."""
    table = pa.Table.from_pylist([{"step": step, **row} for step, row in enumerate(rows)])
    pq.write_table(table, out.with_name(out.name + ".curves.parquet"))
    names = [name for name in table.column_names if name not in ("step", "batch")]
    figure = Figure(figsize=(8, 2 * len(names)), dpi=100, layout="constrained")
    for axis, name in zip(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True):
        axis.plot(table[name].to_numpy(), linewidth=0.6)
        axis.set_ylabel(name)
    axis.set_xlabel("step")
    figure.savefig(out.with_name(out.name + ".curves.png"))
