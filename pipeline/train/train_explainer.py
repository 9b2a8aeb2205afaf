"""From what a user asks for to a training that runs."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.explain.artifacts import read_artifact
from pipeline.explain.load import LOCAL, LoadedModel, absolute_model_spec, load_model
from pipeline.explain.readout import PATCH_READOUT_DESIGN
from pipeline.read import DecoderPool, PreprocessConfig, count_samples, expand_shards, resolve_pattern
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.distributed import mean, rank, ranks
from pipeline.train.image_stream import Stream
from pipeline.train.mask_sources import PseudoMasks, masks, truth_masks
from pipeline.train.masked_images import Pool
from pipeline.train.patch_mask_training import PatchMaskTraining
from pipeline.train.trainer import Learner, Progress, fit
from schemas.artifacts import ArtifactRecord
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import ShardRecord
from schemas.training import DiffMaskSettings, MaskSpec, PatchMaskSettings, TrainSpec

_ROOM = 1.5
"""Side of a training picture over that of the network's input, so that crops are not enlarged much."""


@dataclass(frozen=True)
class PreparedTraining:
    """A training that was looked over: what each process needs to take part in it.

    Attributes:
        spec: with paths that mean the same in every process.
        shards, held_out: as counted.
        about: what the masks are, with their hashes.
        weights: hash of the network that is begun with.
    """

    spec: TrainSpec
    shards: tuple[ShardRecord, ...]
    held_out: tuple[ShardRecord, ...]
    about: tuple[str, ...]
    weights: str

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what is learnt: a checkpoint is gone on with by the same training only."""
        counted = {shard.url: [shard.samples, shard.size] for shard in (*self.shards, *self.held_out)}
        asked = self.spec.model_dump(mode="json", exclude={"out"})
        return asked | {"shards": counted, "masks": self.about, "weights": self.weights}

    @property
    def digest(self) -> str:
        """Its hash."""
        return sha256(json.dumps(self.identity, sort_keys=True).encode())


def train_explainer(spec: TrainSpec, progress: Progress, address: str | None = None) -> ArtifactRecord:
    """Train an explainer on shards; see ``fit`` for what is written.

    Args:
        progress: called with each step's figures.
        address: of the Ray cluster, where there are several workers.

    Raises:
        UsageError: model, shards, masks or output do not fit; nothing has been written then.
        RunFailedError: see ``fit``.
    """
    prepared = prepare(spec)
    if Path(prepared.spec.out).exists():
        return _done(prepared)
    if spec.workers == 1:
        return take_part(prepared, "cuda" if torch.cuda.is_available() else "cpu", progress)
    from pipeline.train.ray_train import over_workers  # Ray is needed only here

    return over_workers(prepared, progress, address)


def prepare(spec: TrainSpec, counted: Callable[[int], None] = lambda done: None) -> PreparedTraining:
    """Look a training over, without beginning it.

    Args:
        counted: called with the number of shards counted.

    Raises:
        UsageError: see ``train_explainer``.
    """
    if not Path(spec.out).absolute().parent.is_dir():
        raise UsageError(f"{spec.out}: there is no folder {Path(spec.out).parent}")
    spec = _absolute(spec)
    learn, test = expand_shards(spec.shards), expand_shards(spec.held_out)
    if both := sorted({os.path.realpath(url) for url in learn} & {os.path.realpath(url) for url in test}):
        raise UsageError(f"{both[0]}: is among the shards to learn from and among those held out")
    source = masks(spec.masks or MaskSpec()) if isinstance(spec.settings, PatchMaskSettings) else None
    measured = truth_masks(spec.masks.measured) if spec.masks and spec.masks.measured else None
    shards, held_out = count_samples(learn, counted), count_samples(test, counted)
    for shard in (*shards, *held_out):
        if shard.fault:
            raise UsageError(f"{shard.url}: {shard.fault}; leave it out, or mend it")
    if isinstance(source, PseudoMasks):
        source.check(shards)
    about = [each.about for each in (source, measured) if each]
    return PreparedTraining(spec, shards, held_out, tuple(about), load_model(spec.model).record.weights)


def _absolute(spec: TrainSpec) -> TrainSpec:
    """The spec with paths that mean the same in every process and from every folder."""
    given = spec.masks.model_dump() if spec.masks else {}
    places = MaskSpec(**{name: resolve_pattern(path) if path else None for name, path in given.items()})
    return spec.model_copy(
        update={
            "model": absolute_model_spec(spec.model),
            "masks": places if spec.masks else None,
            "out": os.path.abspath(spec.out),
            "shards": tuple(map(resolve_pattern, spec.shards)),
            "held_out": tuple(map(resolve_pattern, spec.held_out)),
        }
    )


def take_part(
    prepared: PreparedTraining, device: str, progress: Progress = lambda step, figures: None
) -> ArtifactRecord:
    """Train in this process, with the others of its group where there are any."""
    spec = prepared.spec
    loaded = load_model(spec.model)
    loaded = replace(loaded, model=loaded.model.to(device))
    frame = PreprocessConfig.for_model(loaded.record, spec.geometry)
    if isinstance(spec.settings, DiffMaskSettings):
        classes = loaded.record.classes if spec.settings.objective == "class" else None
        learning = frame
    else:
        classes = loaded.record.classes
        learning = replace(frame, width=round(_ROOM * frame.width), height=round(_ROOM * frame.height))
    stream = Stream(prepared.shards, learning, spec.batch_size, classes, spec.seed, rank(), ranks())
    held_out = Stream(prepared.held_out, frame, spec.batch_size, classes, spec.seed)
    learner, about = _learner(spec, loaded, stream, frame, device)
    card = ArtifactRecord(
        method=spec.settings.method,
        provenance=about.provenance,
        model=_plain(spec.model.name),
        weights=loaded.record.weights,
        settings=spec.settings.model_dump(mode="json", exclude={"method"}),
        supervision=about.supervision,
        shards=tuple(shard.url.rpartition("/")[2] for shard in prepared.shards),
        steps=spec.steps,
        batch_size=spec.batch_size,
        workers=ranks(),
        precision=spec.precision,
        geometry=spec.geometry,
        seed=spec.seed,
        training_hash=prepared.digest,
        metrics={},
    )
    return fit(
        learner,
        stream,
        held_out,
        card,
        Path(spec.out),
        prepared.identity,
        every=spec.every,
        patience=spec.patience,
        decode_processes=_decode_processes(device),
        progress=progress,
    )


def _done(prepared: PreparedTraining) -> ArtifactRecord:
    """The card of what is there, if it is what this training makes.

    Raises:
        UsageError: it is not.
    """
    card = read_artifact(prepared.spec.out).record
    if card is None or card.training_hash != prepared.digest:
        raise UsageError(
            f"{prepared.spec.out}: is there already, of another training; choose another --out, or remove it"
        )
    return card


@dataclass(frozen=True)
class About:
    """What the card says of a definition, and of what was given beside the images."""

    provenance: str
    supervision: str


def _learner(
    spec: TrainSpec, loaded: LoadedModel, stream: Stream, frame: PreprocessConfig, device: str
) -> tuple[Learner, About]:
    if isinstance(spec.settings, DiffMaskSettings):
        of_class = spec.settings.objective == "class"
        about = About(
            "Vision DiffMask (arXiv 2304.06391), with gradient ascent on the multipliers",
            "labels" if of_class else "none",
        )
        return DiffMaskTraining(loaded, spec.settings, spec.seed, spec.precision), about
    asked = spec.masks or MaskSpec()
    source = masks(asked)
    measured = truth_masks(asked.measured) if asked.measured else None
    pool = None
    if source.count is None:
        supervision = f"labels, and pseudo-masks without locality labels: {source.about}"
    else:
        with DecoderPool(_decode_processes(device)) as decoder:
            pool = Pool.gather(stream, source, decoder)
        images = sum(shard.samples for shard in stream.shards)
        found = round(mean({"masks": len(pool)}, torch.device(device))["masks"] * ranks())
        if not found:
            many = f"none of its {source.count} pictures is in the shards"
            raise UsageError(f"{asked.truth}: {many}; are the keys the same?")
        supervision = f"labels, and {found} masks of {images} images ({100 * found / images:.2f} %): {source.about}"
        if found < source.count:
            supervision += f", of whose {source.count} masks the others are of no picture that can be learnt from"
    learner = PatchMaskTraining(
        loaded,
        spec.settings,
        spec.steps,
        (stream.frame, frame),
        masks=source if pool is None else None,
        pool=pool,
        measured=measured,
        seed=spec.seed,
        precision=spec.precision,
        half=spec.half,
    )
    return learner, About(PATCH_READOUT_DESIGN if pool is not None else f"{PATCH_READOUT_DESIGN}, wsol", supervision)


def _plain(name: str) -> str:
    """The name of a model without the folder that it was in."""
    return name.rpartition("/")[2] if name.startswith(LOCAL) else name


def _decode_processes(device: str) -> int:
    """As in a run: four beside a GPU, else a thread."""
    return 4 if device.startswith("cuda") else 0
