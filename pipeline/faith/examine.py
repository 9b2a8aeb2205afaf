"""Faithfulness and sanity of an atlas: images from its tars, maps from the atlas, questions to its network."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pipeline.explain.load import load
from pipeline.explain.undisturbed import undisturbed
from pipeline.faith.measure import Batch, Better, Cost, Measure, Value
from pipeline.faith.measures import FAITHFULNESS
from pipeline.faith.network import Network
from pipeline.faith.summary import summarise
from pipeline.files import refuse_commands
from pipeline.read import batches
from pipeline.run.crew import Device
from pipeline.run.spread import spread
from pipeline.run.worker import Worker
from pipeline.store import Atlas, Tar
from schemas.errors import BadTar, UsageError
from schemas.faith import FIGURES
from schemas.samples import Status

_BATCH = 16
"""Images whose copies are remembered together; bounds memory."""

Drawn = tuple[str, tuple[int, ...]]
"""A tar, and the ordinals of its samples that are examined."""


@dataclass(frozen=True)
class Examined:
    """What came of it.

    Attributes:
        figures: ``schemas.faith.FIGURES``, in the order of the rows.
        summary: ``schemas.faith.SUMMARY``.
    """

    figures: pa.Table
    summary: pa.Table


def examine(
    url: str,
    measures: Mapping[str, Measure] = FAITHFULNESS,
    methods: Sequence[str] = (),
    images: int = 1000,
    seed: int = 0,
    device: Device = "auto",
    address: str | None = None,
    allow_pipe: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Examined:
    """Measure the maps of images that are drawn at random from the finished tars.

    Args:
        url: of the atlas.
        methods: names of maps; empty is all.
        images: how many, at most.
        seed: of the draw, and of all that measures draw.
        address: of a Ray cluster, see ``spread``.
        say: told what it will cost, before anything is computed.

    Raises:
        UsageError: no such method, nothing to measure by, or no image with maps.
        BadTar: a tar cannot be read, or its pictures are not those that the atlas has maps of.
        SpecDrift: the network is another now.
    """
    atlas = Atlas.open(url)
    refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    for target in atlas.run.spec.targets:
        atlas.require(target, chosen)
    if not measures:
        raise UsageError("there is nothing to measure by; name at least one measure")
    drawn = draw(atlas, images, seed)
    if not drawn:
        raise UsageError(f"{url}: has no sample with maps yet; run it first: vitatlas run {url}")
    number = sum(len(ordinals) for _, ordinals in drawn)
    say(f"{number} images, at most {cost(atlas, measures, len(chosen)) * number}")
    work = partial(_examine_tar, url, device, tuple(measures.values()), chosen, seed)
    tables = list(spread(work, drawn, "measure", address, gpu=True))
    figures = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return Examined(figures.sort_by("row"), summarise(figures, directions(measures)))


def draw(atlas: Atlas, images: int, seed: int) -> list[Drawn]:
    """So many samples that have maps, at random, by tar."""
    samples = atlas.samples(["tar", "ordinal", "status"])
    good = samples.filter(pc.equal(samples["status"].cast("string"), Status.OK))
    by_tar: dict[str, list[int]] = defaultdict(list)
    for sample in good.take(np.random.default_rng(seed).permutation(len(good))[:images]).to_pylist():
        by_tar[sample["tar"]].append(sample["ordinal"])
    return [(tar, tuple(sorted(by_tar[tar]))) for tar in sorted(by_tar)]


def cost(atlas: Atlas, measures: Mapping[str, Measure], methods: int) -> Cost:
    """Of one image, at most.

    Raises:
        UsageError: the network cannot be loaded.
    """
    depth = load(atlas.run.spec.model).anatomy.depth
    each = sum((measure.cost(methods, depth) for measure in measures.values()), Cost())
    return each * len(atlas.run.spec.targets)


def directions(measures: Mapping[str, Measure]) -> dict[str, Better]:
    """Whether higher or lower is better, by figure."""
    return {figure: better for measure in measures.values() for figure, better in measure.figures.items()}


def _examine_tar(
    url: str, device: Device, measures: Sequence[Measure], methods: Sequence[str], seed: int, drawn: Drawn
) -> pa.Table:
    tar, ordinals = drawn
    atlas = Atlas.open(url)
    return examine_tar(_worker(url, device, atlas.run.spec_hash), atlas.tar(tar), ordinals, measures, methods, seed)


@lru_cache(1)
def _worker(url: str, device: Device, spec_hash: str) -> Worker:
    """One for each process, which does many tars. The hash tells apart what stands at a place one after another."""
    return Worker(url, device)


def examine_tar(
    worker: Worker,
    part: Tar,
    ordinals: Sequence[int],
    measures: Sequence[Measure],
    methods: Sequence[str],
    seed: int = 0,
) -> pa.Table:
    """Measure the maps of some images of a tar: ``schemas.faith.FIGURES``.

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
                (torch.from_numpy(pixels).to(worker.device).float() / 255 - worker.mean) / worker.std,
                tuple(row["key"] for row in rows),
                np.array([-1 if row["label"] is None else row["label"] for row in rows], np.int64),
                np.array([[row[classes[target]] for target in targets] for row in rows], np.int64),
                {name: each[chosen].astype(np.float64) for name, each in maps.items()},
                seed,
            )
            tables += [_table(rows, targets, value) for measure in measures for value in measure.of(batch)]
    return pa.concat_tables(tables).unify_dictionaries() if tables else FIGURES.empty_table()


def _pictures(worker: Worker, part: Tar, ordinals: Sequence[int]) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """The network's inputs of some samples, a few at a time: their ordinals [B], uint8 [B, 3, H, W]."""
    run, shard, wanted = worker.run, worker.run.shards[part.commit.tar_index], set(ordinals)
    hashes = part.samples["image_sha256"].to_pylist()
    waiting: list[tuple[int, NDArray[np.uint8]]] = []
    read = batches(
        shard, run.slot, worker.frame, _BATCH, None, worker.decoders, only=lambda sample: sample.ordinal in wanted
    )
    for batch in read:
        for sample in batch.samples:
            if sample.ordinal not in wanted:
                continue
            if sample.picture is None or sample.picture.sha256 != hashes[sample.ordinal]:
                raise BadTar(f"{shard.url}: {sample.key} is not the picture that the atlas has maps of")
            waiting.append((sample.ordinal, sample.picture.pixels))
            wanted.remove(sample.ordinal)
        while len(waiting) >= _BATCH or (waiting and not wanted):
            group, waiting = waiting[:_BATCH], waiting[_BATCH:]
            yield [ordinal for ordinal, _ in group], np.stack([pixels for _, pixels in group])
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
