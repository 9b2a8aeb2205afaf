"""Validation of a training's inputs, and the plan that all of its processes share."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.explain.load import absolute_model_spec, load_model
from pipeline.explain.method import constant_probability_fault
from pipeline.explain.semantic_maps import class_token_fault
from pipeline.read import count_disjoint, resolve_pattern
from pipeline.train.mask_sources import PseudoMaskSource, TruthMaskSource, open_held_out_masks, open_mask_source
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.run import RunSpec
from schemas.shard_record import ShardRecord
from schemas.training import MaskSpec, PatchMaskSettings, TrainSpec, TSCAMSettings


@dataclass(frozen=True)
class PreparedTraining:
    """Validated training; all that each process needs.

    Attributes:
        spec: spec with absolute paths.
        shards: training shards with sample counts.
        held_out: held-out shards, likewise.
        masks: descriptions of the masks, with their hashes.
        weights: hash of the initial model.
    """

    spec: TrainSpec
    shards: tuple[ShardRecord, ...]
    held_out: tuple[ShardRecord, ...]
    masks: tuple[str, ...]
    weights: str

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result. Only the same training resumes a checkpoint."""
        counts = {shard.url: [shard.samples, shard.size] for shard in (*self.shards, *self.held_out)}
        spec = self.spec.model_dump(mode="json", exclude={"out"})
        return spec | {"shards": counts, "masks": self.masks, "weights": self.weights}

    @property
    def digest(self) -> str:
        """Hash of the identity."""
        return sha256(json.dumps(self.identity, sort_keys=True).encode())


def prepare_training(spec: TrainSpec, log: Callable[[str], None] = lambda line: None) -> PreparedTraining:
    """Validate a training and count the samples of its shards.

    Args:
        spec: training.
        log: called with each sign that the truth of masks means something else than its format says.

    Raises:
        UsageError: model, shards, masks or output are invalid, or do not match.
    """
    if not Path(spec.out).absolute().parent.is_dir():
        raise UsageError(f"{spec.out}: there is no folder {Path(spec.out).parent}; create it first")
    spec = _with_absolute_paths(spec)
    mask_spec, source = spec.masks or MaskSpec(), None
    if isinstance(spec.settings, PatchMaskSettings):
        source = open_mask_source(mask_spec, spec.grouping, spec.applied_exif)
    if isinstance(source, PseudoMaskSource):
        spec = _follow_atlas(spec, source.run)
    shards, held_out = count_disjoint(spec.shards, spec.held_out, spec.grouping)
    if isinstance(source, PseudoMaskSource):
        source.check_shards(shards)
    held_out_masks = open_held_out_masks(mask_spec, spec.grouping, spec.applied_exif)
    sources = [each for each in (source, held_out_masks) if each]
    truths = [each for each in sources if isinstance(each, TruthMaskSource)]
    for line in dict.fromkeys(line for each in truths for line in each.describe_faults()):
        log(line)
    masks = tuple(each.description for each in sources)
    loaded = load_model(spec.model)
    if fault := constant_probability_fault(loaded.transformer):
        raise UsageError(f"{spec.model.head}: gives nothing to learn: {fault}")
    if isinstance(spec.settings, TSCAMSettings) and (fault := class_token_fault(loaded.transformer)):
        raise UsageError(f"{spec.model.name}: TS-CAM is not defined for it: {fault}")
    return PreparedTraining(spec, shards, held_out, masks, loaded.record.weights)


def _follow_atlas(spec: TrainSpec, run: RunSpec) -> TrainSpec:
    """Return the spec with the keys, images, EXIF orientation and labels of the run that the pseudo-masks are of.

    Raises:
        UsageError: the spec asks for others.
    """
    updates: dict[str, Any] = {}
    for name in ("key_separator", "image_key", "exif", "label_key", "label_form", "classes"):
        asked, made = getattr(spec, name), getattr(run, name)
        if asked not in (None, made):
            value = ",".join(made) or "none" if isinstance(made, tuple) else made
            raise UsageError(f"--{name.replace('_', '-')}: the atlas of the pseudo-masks has {value}; leave it out")
        updates[name] = made
    return spec.model_copy(update=updates)


def _with_absolute_paths(spec: TrainSpec) -> TrainSpec:
    """Return the spec with paths that are valid in every process and from every folder."""
    masks = spec.masks or MaskSpec()
    paths = {name: getattr(masks, name) for name in ("truth", "atlas", "policy", "held_out_truth")}
    masks = masks.model_copy(update={name: resolve_pattern(path) for name, path in paths.items() if path})
    return spec.model_copy(
        update={
            "model": absolute_model_spec(spec.model),
            "masks": masks if spec.masks else None,
            "out": os.path.abspath(spec.out),
            "shards": tuple(map(resolve_pattern, spec.shards)),
            "held_out": tuple(map(resolve_pattern, spec.held_out)),
        }
    )
