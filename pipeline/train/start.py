"""From what a user asks for to a training that runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.explain.load import load
from pipeline.read import Frame, count, find
from pipeline.train.diffmask import DiffMaskLearner, DiffMaskTraining, Settings
from pipeline.train.fit import Progress, fit
from pipeline.train.stream import Stream
from schemas.artifact import Card
from schemas.errors import UsageError
from schemas.run import Geometry, ModelSpec


def diffmask(
    model: ModelSpec,
    shards: Sequence[str],
    held_out: Sequence[str],
    out: Path,
    *,
    settings: Settings,
    steps: int,
    batch_size: int,
    geometry: Geometry,
    seed: int,
    progress: Progress,
    counted: Callable[[int], None] = lambda done: None,
) -> Card:
    """Train the gates of Vision DiffMask on tars; see ``fit`` for what is written.

    Args:
        shards: paths, URLs, brace patterns or globs of tars to learn from.
        held_out: tars for the figures in the card; none of them may be among ``shards``.
        counted: called with the number of tars counted.

    Raises:
        UsageError: model, tars or output do not fit; nothing has been written then.
        RunFailed: the loss was not finite.
    """
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}")
    loaded = load(model)
    frame = Frame.of(loaded.record, geometry)
    learn, test = find(shards), find(held_out)
    if both := sorted(set(learn) & set(test)):
        raise UsageError(f"{both[0]}: is among the tars to learn from and among those held out")
    classes = loaded.record.classes if settings.objective == "class" else None
    streams = [Stream(count(urls, counted), frame, batch_size, classes, seed) for urls in (learn, test)]
    network = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    training = DiffMaskTraining(network, loaded.anatomy, settings, seed)
    card = Card(
        method="diffmask",
        provenance="Vision DiffMask (arXiv 2304.06391), with gradient ascent on the multipliers",
        model=model.name.rpartition("/")[2] if model.name.startswith("local-dir:") else model.name,
        weights=loaded.record.weights,
        settings=asdict(settings),
        data=tuple(url.rpartition("/")[2] for url in learn),
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        figures={},
    )
    learner = DiffMaskLearner(training, loaded.record.mean, loaded.record.std)
    return fit(learner, streams[0], streams[1], card, out, progress=progress)
