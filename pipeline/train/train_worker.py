"""Training in one process, alone or as a member of a process group."""

from dataclasses import replace
from pathlib import Path, PurePath

import torch

from pipeline.explain.load import LoadedModel, load_model
from pipeline.explain.readout import PATCH_READOUT_DESIGN
from pipeline.read import DecoderPool, LabelRule, PreprocessConfig
from pipeline.train.diffmask_training import DiffMaskTraining
from pipeline.train.distributed import all_reduce_mean, rank, world_size
from pipeline.train.image_stream import ImageStream
from pipeline.train.mask_sources import open_held_out_masks, open_mask_source
from pipeline.train.masked_images import MaskedImagePool
from pipeline.train.patch_mask_training import PatchMaskTraining
from pipeline.train.prepare_training import PreparedTraining
from pipeline.train.trainer import ProgressCallback, TrainableExplainer, run_training_loop
from pipeline.train.tscam_training import TSCAMTraining
from schemas.artifacts import ArtifactRecord
from schemas.errors import UsageError
from schemas.training import DiffMaskSettings, MaskSpec, TrainSpec, TSCAMSettings

_SCALE = 1.5
"""Side of a training image relative to the model's input, so that crops are hardly upsampled."""


def train_worker(
    prepared: PreparedTraining, device: str, progress: ProgressCallback = lambda step, metrics: None
) -> ArtifactRecord:
    """Train in this process.

    Args:
        prepared: training.
        device: device of the model.
        progress: called after each step.

    Returns:
        Record of the artifact, with its metrics.
    """
    spec = prepared.spec
    loaded = load_model(spec.model)
    loaded, head = replace(loaded, model=loaded.model.to(device)), loaded.record.head
    frame = training_frame = PreprocessConfig.for_model(loaded.record, spec.geometry, spec.applied_exif)
    classes: int | None = loaded.record.classes
    if not isinstance(spec.settings, DiffMaskSettings):  # crops are taken
        training_frame = replace(frame, width=round(_SCALE * frame.width), height=round(_SCALE * frame.height))
    elif spec.settings.objective != "class":
        classes = None
    labels = LabelRule(key=spec.label_key, form=spec.label_form, names=spec.classes or ())
    stream = ImageStream(
        prepared.shards,
        training_frame,
        spec.batch_size,
        classes,
        spec.seed,
        rank(),
        world_size(),
        spec.grouping,
        labels,
    )
    held_out = ImageStream(
        prepared.held_out, frame, spec.batch_size, classes, spec.seed, grouping=spec.grouping, labels=labels
    )
    explainer, provenance, supervision = _make_explainer(spec, loaded, stream, frame, device)
    record = ArtifactRecord(
        method=spec.settings.method,
        provenance=provenance,
        model=PurePath(spec.model.name).name,  # of a local model without the path to it
        weights=loaded.record.weights,
        backbone=head.backbone if head else None,
        head=head.hash if head else None,
        readout=loaded.record.readout,
        settings=spec.settings.model_dump(mode="json", exclude={"method"}),
        supervision=supervision,
        shards=tuple(shard.url.rpartition("/")[2] for shard in prepared.shards),
        steps=spec.steps,
        batch_size=spec.batch_size,
        workers=world_size(),
        precision=spec.precision,
        geometry=spec.geometry,
        seed=spec.seed,
        training_hash=prepared.digest,
        metrics={},
    )
    return run_training_loop(
        explainer,
        stream,
        held_out,
        record,
        Path(spec.out),
        prepared.identity,
        eval_interval=spec.eval_interval,
        patience=spec.patience,
        decode_processes=_decode_processes(device),
        progress=progress,
    )


def _make_explainer(
    spec: TrainSpec, loaded: LoadedModel, stream: ImageStream, frame: PreprocessConfig, device: str
) -> tuple[TrainableExplainer, str, str]:
    """Return the learned method with provenance and supervision for its record."""
    if isinstance(spec.settings, DiffMaskSettings):
        provenance = "Vision DiffMask (arXiv 2304.06391), with gradient ascent on the multipliers"
        supervision = "labels" if spec.settings.objective == "class" else "none"
        return DiffMaskTraining(loaded, spec.settings, spec.seed, spec.precision), provenance, supervision
    if isinstance(spec.settings, TSCAMSettings):
        provenance = f"TS-CAM (ICCV 2021), {spec.settings.backbone} backbone"
        return TSCAMTraining(loaded, spec.settings, spec.steps, spec.seed, spec.precision), provenance, "labels"
    mask_spec = spec.masks or MaskSpec()
    source, pool = open_mask_source(mask_spec, spec.grouping, spec.applied_exif), None
    if source.count is None:
        supervision = f"labels, and pseudo-masks without localization labels: {source.description}"
    else:
        with DecoderPool(_decode_processes(device)) as decoders:
            pool = MaskedImagePool.load(stream, source, decoders)
        images = sum(shard.samples for shard in stream.shards)
        masks = round(all_reduce_mean({"masks": len(pool)}, torch.device(device))["masks"] * world_size())
        if not masks:
            fault = f"{mask_spec.truth}: none of its {source.count} images is a usable sample of the training shards"
            if not stream.faults:
                raise UsageError(f"{fault}; check that the keys are the same, and where they end (--key-separator)")
            raise UsageError(f"{fault}: {stream.describe_faults()}")
        supervision = (
            f"labels, and {masks} masks of {images} images ({100 * masks / images:.2f} %): {source.description}"
        )
        if masks < source.count:
            rest = source.count - masks
            supervision += f"; {rest} further images of the truth have no mask, or are unusable in the shards"
    explainer = PatchMaskTraining(
        loaded,
        spec.settings,
        spec.steps,
        (stream.frame, frame),
        masks=source if pool is None else None,
        pool=pool,
        held_out_masks=open_held_out_masks(mask_spec, spec.grouping, spec.applied_exif),
        seed=spec.seed,
        precision=spec.precision,
        half=spec.save_float16,
    )
    return explainer, PATCH_READOUT_DESIGN if pool is not None else f"{PATCH_READOUT_DESIGN}, wsol", supervision


def _decode_processes(device: str) -> int:
    """Return 4 processes for a GPU, else 0 (a thread), as in a run."""
    return 4 if device.startswith("cuda") else 0
