"""From what a user asks for to a training that runs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.explain.load import Loaded, absolute, load
from pipeline.explain.readout import DESIGN
from pipeline.read import Frame, count, decoders, find
from pipeline.train.diffmask import DiffMaskTraining
from pipeline.train.fit import Learner, Progress, fit
from pipeline.train.labelled import Pool
from pipeline.train.masks import PseudoMasks, masks, truth_masks
from pipeline.train.patch_mask import PatchMaskTraining
from pipeline.train.ranks import mean, rank, ranks
from pipeline.train.stream import Stream
from schemas.artifact import Card
from schemas.errors import UsageError
from schemas.run import ShardRecord
from schemas.training import DiffMaskSettings, MaskSpec, PatchMaskSettings, TrainSpec

_ROOM = 1.5
"""Side of a training picture over that of the network's input, so that crops are not enlarged much."""


@dataclass(frozen=True)
class Prepared:
    """A training that was looked over: what each process needs to take part in it.

    Attributes:
        spec: with paths that mean the same in every process.
        shards, held_out: as counted.
    """

    spec: TrainSpec
    shards: tuple[ShardRecord, ...]
    held_out: tuple[ShardRecord, ...]


def train(spec: TrainSpec, progress: Progress, address: str | None = None) -> Card:
    """Train an explainer on tars; see ``fit`` for what is written.

    Args:
        progress: called with each step's figures.
        address: of the Ray cluster, where there are several workers.

    Raises:
        UsageError: model, tars, masks or output do not fit; nothing has been written then.
        RunFailed: the loss was not finite.
    """
    prepared = prepare(spec)
    if spec.workers == 1:
        return take_part(prepared, "cuda" if torch.cuda.is_available() else "cpu", progress)
    from pipeline.train.workers import over_workers  # Ray is needed only here

    return over_workers(prepared, progress, address)


def prepare(spec: TrainSpec, counted: Callable[[int], None] = lambda done: None) -> Prepared:
    """Look a training over, without beginning it.

    Args:
        counted: called with the number of tars counted.

    Raises:
        UsageError: see ``train``.
    """
    out = Path(spec.out).absolute()
    if not out.parent.is_dir():
        raise UsageError(f"{spec.out}: there is no folder {Path(spec.out).parent}")
    model = spec.model.model_copy(update={"name": absolute(spec.model.name)})
    if model.checkpoint:
        model = model.model_copy(update={"checkpoint": str(Path(model.checkpoint).absolute())})
    spec = spec.model_copy(update={"model": model, "out": str(out)})
    learn, test = find(spec.shards), find(spec.held_out)
    if both := sorted(set(learn) & set(test)):
        raise UsageError(f"{both[0]}: is among the tars to learn from and among those held out")
    if isinstance(spec.settings, PatchMaskSettings):
        source = masks(spec.masks or MaskSpec())
        if spec.masks and spec.masks.measured:
            truth_masks(spec.masks.measured)
    shards, held_out = count(learn, counted), count(test, counted)
    for asked, records in ((spec.shards, shards), (spec.held_out, held_out)):
        if not any(each.samples and not each.problem for each in records):
            raise UsageError(f"{asked[0]}: {records[0].problem or 'holds no samples'}; there is nothing to learn from")
    if isinstance(spec.settings, PatchMaskSettings) and isinstance(source, PseudoMasks):
        source.check([each.tar for each in shards if not each.problem])
    return Prepared(spec, shards, held_out)


def take_part(prepared: Prepared, device: str, progress: Progress = lambda step, figures: None) -> Card:
    """Train in this process, with the others of its group where there are any."""
    spec = prepared.spec
    loaded = load(spec.model)
    loaded = replace(loaded, model=loaded.model.to(device))
    frame = Frame.of(loaded.record, spec.geometry)
    if isinstance(spec.settings, DiffMaskSettings):
        classes = loaded.record.classes if spec.settings.objective == "class" else None
        learning = frame
    else:
        classes = loaded.record.classes
        learning = replace(frame, width=round(_ROOM * frame.width), height=round(_ROOM * frame.height))
    stream = Stream(prepared.shards, learning, spec.batch_size, classes, spec.seed, rank(), ranks())
    held_out = Stream(prepared.held_out, frame, spec.batch_size, classes, spec.seed)
    learner, about = _learner(spec, loaded, stream, frame, device)
    card = Card(
        method=spec.settings.method,
        provenance=about.provenance,
        model=_plain(spec.model.name),
        weights=loaded.record.weights,
        settings=spec.settings.model_dump(mode="json", exclude={"method"}),
        supervision=about.supervision,
        data=tuple(shard.url.rpartition("/")[2] for shard in prepared.shards),
        steps=spec.steps,
        batch_size=spec.batch_size,
        workers=ranks(),
        precision=spec.precision,
        geometry=spec.geometry,
        seed=spec.seed,
        figures={},
    )
    return fit(
        learner,
        stream,
        held_out,
        card,
        Path(spec.out),
        every=spec.every,
        patience=spec.patience,
        decode_processes=_decode_processes(device),
        progress=progress,
    )


@dataclass(frozen=True)
class About:
    """What the card says of a definition, and of what was given beside the images."""

    provenance: str
    supervision: str


def _learner(spec: TrainSpec, loaded: Loaded, stream: Stream, frame: Frame, device: str) -> tuple[Learner, About]:
    if isinstance(spec.settings, DiffMaskSettings):
        of_class = spec.settings.objective == "class"
        about = About(
            "Vision DiffMask (arXiv 2304.06391), with gradient ascent on the multipliers",
            "labels" if of_class else "none",
        )
        return DiffMaskTraining(loaded, spec.settings, spec.seed, spec.precision), about
    source, asked = masks(spec.masks or MaskSpec()), spec.masks or MaskSpec()
    measured = truth_masks(asked.measured) if asked.measured else None
    images = sum(shard.samples for shard in stream.shards)
    pool = None
    if source.local:
        with decoders(_decode_processes(device)) as decoder:
            pool = Pool.gather(stream, source, decoder)
    if pool is None or source.keys is None:
        supervision = f"labels, and pseudo-masks without locality labels: {source.about}"
    else:
        found = round(mean({"masks": len(pool)}, torch.device(device))["masks"] * ranks())
        supervision = f"labels, and {found} masks of {images} images ({100 * found / images:.2f} %): {source.about}"
        if found < len(source.keys):
            supervision += f", of whose {len(source.keys)} masks the others are of no picture that can be learnt from"
    learner = PatchMaskTraining(
        loaded,
        spec.settings,
        spec.steps,
        (stream.frame, frame),
        masks=None if source.local else source,
        pool=pool,
        measured=measured,
        seed=spec.seed,
        precision=spec.precision,
        half=spec.half,
    )
    return learner, About(DESIGN, supervision)


def _plain(name: str) -> str:
    """The name of a model without the folder that it was in."""
    return name.rpartition("/")[2] if name.startswith("local-dir:") else name


def _decode_processes(device: str) -> int:
    """As in a run: four beside a GPU, else a thread."""
    return 4 if device.startswith("cuda") else 0
