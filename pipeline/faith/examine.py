"""Figures of a tar: its images, their maps from the atlas, questions to the network."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.explain.undisturbed import undisturbed
from pipeline.faith.measure import Batch, Measure, Value
from pipeline.faith.network import Network
from pipeline.read import batches
from pipeline.run.worker import Worker
from pipeline.store import Tar
from schemas.errors import BadTar
from schemas.faith import FIGURES

_BATCH = 16
"""Images whose copies are remembered together; bounds memory."""


def examine_tar(
    worker: Worker,
    part: Tar,
    ordinals: Sequence[int],
    measures: Sequence[Measure],
    methods: Sequence[str],
    seed: int = 0,
) -> pa.Table:
    """Measure the maps of some images of a tar: ``schemas.faith.FIGURES``, in the order of the rows.

    Args:
        worker: of the atlas.
        ordinals: of samples that have maps.
        methods: names of maps.

    Raises:
        BadTar: it cannot be read, or its pictures are not those that the atlas has maps of.
    """
    known = {method.name: method for method in worker.explainer.methods}
    network = Network(
        worker.model,
        worker.explainer.anatomy,
        worker.mean,
        worker.std,
        {name: known[name] for name in methods},
        worker.run.spec.seed,
    )
    targets = worker.run.spec.targets
    maps = {name: np.stack([part.maps(name, target) for target in targets], 1) for name in methods}
    samples = part.samples.to_pylist()
    tables = []
    with undisturbed(worker.model):
        for chosen, pixels in _pictures(worker, part, ordinals):
            rows = [samples[ordinal] for ordinal in chosen]
            classes = {"label": "label", "predicted": "prediction"}
            batch = Batch(
                network,
                (pixels.to(worker.device).float() / 255 - worker.mean) / worker.std,
                tuple(row["key"] for row in rows),
                np.array([-1 if row["label"] is None else row["label"] for row in rows], np.int64),
                np.array([[row[classes[target]] for target in targets] for row in rows], np.int64),
                {name: each[chosen].astype(np.float64) for name, each in maps.items()},
                seed,
            )
            tables += [_table(rows, targets, value) for measure in measures for value in measure.of(batch)]
    found = pa.concat_tables(tables).unify_dictionaries() if tables else FIGURES.empty_table()
    return found.combine_chunks().sort_by("row")


def _pictures(worker: Worker, part: Tar, ordinals: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """The network's inputs of some samples, a few at a time: their ordinals [B], uint8 [B, 3, H, W]."""
    run, shard, wanted = worker.run, worker.run.shards[part.commit.tar_index], set(ordinals)
    hashes = part.samples["image_sha256"].to_pylist()
    waiting: list[tuple[int, Tensor]] = []
    read = batches(
        shard, run.slot, worker.frame, _BATCH, None, worker.decoders, only=lambda sample: sample.ordinal in wanted
    )
    for batch in read:
        for sample in batch.samples:
            if sample.ordinal not in wanted:
                continue
            if sample.picture is None or sample.picture.sha256 != hashes[sample.ordinal]:
                raise BadTar(f"{shard.url}: {sample.key} is not the picture that the atlas has maps of")
            waiting.append((sample.ordinal, torch.as_tensor(sample.picture.pixels)))
            wanted.remove(sample.ordinal)
        while len(waiting) >= _BATCH or (waiting and not wanted):
            group, waiting = waiting[:_BATCH], waiting[_BATCH:]
            yield [ordinal for ordinal, _ in group], torch.stack([pixels for _, pixels in group])
    if wanted:
        raise BadTar(f"{shard.url}: has not all the samples that the atlas has maps of; is it another tar?")


def _table(rows: Sequence[dict[str, Any]], targets: Sequence[str], value: Value) -> pa.Table:
    number, kinds = len(rows), len(targets)
    columns = {
        "row": np.repeat([row["row"] for row in rows], kinds),
        "key": np.repeat(np.array([row["key"] for row in rows], object), kinds),
        "method": [value.method] * number * kinds,
        "target": list(targets) * number,
        "figure": [value.figure] * number * kinds,
        "value": pa.array(value.values.ravel(), from_pandas=True),  # NaN becomes null
    }
    return pa.table({name: pa.array(each).cast(FIGURES.field(name).type) for name, each in columns.items()}, FIGURES)
