"""Labels of a whole atlas: every shard by one policy, in every requested format."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.label.calibrate import CalibrationSource, describe_maps
from pipeline.label.formats.base import ExportContext
from pipeline.label.label_product import LabelProduct, LabelTotals, check_formats, refuse_shared_keys, write_labels
from pipeline.label.label_shard import check_policy, iter_labels
from pipeline.label.refine import compute_address, pin_checkpoint
from pipeline.run.derive import ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions
from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import ProductStore, check_output_dir
from pipeline.store.parquet import from_parquet
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.labels import LabelingSpec
from schemas.layout import POLICY
from schemas.policy import Pamr, Policy, Sam

ABOUT = POLICY
_FOUND_BY_CALIBRATION = ("hash", "threshold", "calibration")


def read_policy(path: str | Path) -> Policy:
    """Read a policy from a YAML file.

    Raises:
        UsageError: there is no such file, it is not YAML, or not a policy.
    """
    return Policy.from_yaml(path)


@dataclass(frozen=True, kw_only=True)
class LabelSummary(LabelTotals):
    """The labels of an atlas in numbers; ``summary.json`` of their folder.

    Attributes:
        policy: the policy that was applied, with its threshold.
        calibration: one sentence on how the threshold was found; None where the policy has its own.
        counts: number of samples by status.
        area, ignored: mean share of the image, over labels with a mask; None without any.
        left_out: share of these that are made of fewer maps than the policy has methods.
        border: share of the masks with foreground that have more than half of it in the frame of the image.
        likeness: mean IoU of successive masks with foreground, on a coarse grid.
        merged: objects that were made of all shards together.
    """

    policy: Policy
    calibration: str | None


def label(
    atlas: MapReader,
    policy: Policy,
    formats: Iterable[str],
    out: str,
    calibration: CalibrationSource | None = None,
    classes: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> LabelSummary:
    """Label every finished shard of an atlas. What exists already is not made again.

    Writes ``policy.json``; for each shard the objects of each format, ``labels/<shard>.parquet`` and
    ``commits/<shard>.json``; then what formats merge from all shards, and last ``summary.json``.

    Args:
        atlas: the atlas with the maps.
        policy: how maps become masks.
        formats: names in ``LABEL_FORMATS``.
        out: output folder or URL.
        calibration: images with truth, on which a calibrated policy finds its threshold.
        classes: names of the classes, by class id; empty are those of the atlas.
        options: where it is computed; may shell commands be run to read images.
        log: called with a sentence on images that get no mask because networks explain different classes of them, and
            with signs that the truth means something else than its format says.

    Raises:
        UsageError: there is no such format; the atlas has no such method or target; a policy is calibrated and no
            truth is given; the folder holds other labels; or a key occurs in two shards. Nothing is written then.
        CorruptShardError: images that the policy needs cannot be read.
    """
    names = tuple(dict.fromkeys(formats))
    check_formats(names, policy.target)
    check_policy(atlas, policy)
    policy = pin_checkpoint(policy).model_copy(update={"target": atlas.find_target(policy.target)})
    classes = atlas.class_names(classes)
    refuse_shared_keys(atlas, names)
    if note := atlas.check_classes(policy.target, policy.methods):
        log(note)
    if policy.calibrated and calibration is None:
        raise UsageError(f"policy {policy.name}: its threshold is calibrated; name the truth with --tune FILE|DIR")
    if calibration is not None and not policy.calibrated:
        raise UsageError(f"policy {policy.name}: its threshold is not calibrated; remove --tune, or calibrate it")
    about = LabelingSpec(
        policy=policy.model_dump(mode="json"),
        run=atlas.run.run_hash,
        classes=sha256("\n".join(classes).encode()) if classes else None,
        truth=calibration.truth.digest if calibration else None,
        tuned=describe_maps(calibration.atlas or atlas, policy.methods) if calibration else None,
        networks={name: network.run.run_hash for name, network in atlas.networks.items()},
    )
    objects = ObjectStore(out)
    if calibration is not None:
        # The threshold of an unfinished command stays, even if there are more images to tune on by now.
        previous = check_output_dir(objects, ABOUT, about, _FOUND_BY_CALIBRATION)
        if previous is not None and previous.threshold is not None:
            threshold, how = previous.threshold, previous.calibration
        else:
            threshold, how = calibration.find_threshold(atlas, policy, options, log)
        about = about.model_copy(update={"threshold": threshold, "calibration": how})
        policy = policy.with_threshold(threshold)
    about = about.model_copy(update={"hash": policy.digest()})
    context = ExportContext(policy.digest(), classes, atlas.run.spec.grouping)
    title, function = f"label by {policy.name}", partial(_label_shard, policy, names, context, options.allow_pipe)
    labels = _Labels(
        title,
        function,
        atlas,
        objects,
        about=about,
        methods=policy.methods,
        uses_gpu=isinstance(policy.refine, Pamr | Sam),
        policy=policy,
        formats=names,
        context=context,
    )
    return derive(labels, replace(options, address=compute_address(policy, options.address)))


@dataclass(frozen=True, kw_only=True)
class _Labels(LabelProduct[None, LabelSummary]):
    about: LabelingSpec
    about_object = ABOUT
    may_differ = _FOUND_BY_CALIBRATION
    policy: Policy

    def summarize(self, totals: LabelTotals, objects: ProductStore) -> LabelSummary:
        return LabelSummary(policy=self.policy, calibration=self.about.calibration, **vars(totals))


def _label_shard(
    policy: Policy, formats: tuple[str, ...], context: ExportContext, allow_pipe: bool, task: ShardTask[MapReader, None]
) -> ShardResult:
    return write_labels(task, formats, context, iter_labels(task.source, task.shard, policy, allow_pipe))


def read_labels(out: str) -> pa.Table:
    """Read the label table of all shards in a folder of labels, by shard name; columns as ``schemas.labels.LABELS``."""
    objects = ObjectStore(out)
    return pa.concat_tables([from_parquet(objects.get(f"labels/{name}")) for name in objects.list("labels")])
