"""Labels whose masks were made elsewhere, such as by SAM on exported prompts or by a trained segmenter."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pipeline.image.orientation import swaps_sides
from pipeline.label.formats.base import ExportContext
from pipeline.label.label_product import LabelProduct, LabelTotals, check_formats, refuse_shared_keys, write_labels
from pipeline.label.mask import Label, Mask, with_mask
from pipeline.run.derive import ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions
from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import ProductStore
from pipeline.truth import Truth, TruthMatcher, TruthSet
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.labels import ImportSpec, LabelStatus
from schemas.samples import SampleStatus, explained_class, has_map
from schemas.text import escape_control

UNUSED = "unused.csv"
"""Masks that no label has, with the reason; in the folder of the labels."""

_COLUMNS = ["key", "status", "width", "height", "orientation", "target_classes"]
_MaskByKey = dict[str, Truth]


@dataclass(frozen=True, kw_only=True)
class ImportSummary(LabelTotals):
    """Labels with masks made elsewhere, in numbers; ``summary.json`` of their folder.

    Attributes:
        source: where the masks come from.
        unused: number of masks that no label has; ``unused.csv`` names them.
        counts: number of samples by status.
        area, ignored: mean share of the image, over labels with a mask; None without any.
        left_out: share of these that are made of fewer maps than the policy has methods.
        border: share of the masks with foreground that have more than half of it in the frame of the image.
        likeness: mean IoU of successive masks with foreground, on a coarse grid.
        merged: objects that were made of all shards together.
    """

    source: ImportSpec
    unused: int


def import_masks(
    atlas: MapReader,
    masks: TruthSet,
    formats: Iterable[str],
    out: str,
    target: str = "label",
    tool: str | None = None,
    classes: Sequence[str] = (),
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> ImportSummary:
    """Make labels of masks that were made elsewhere: the same formats, table and records as ``label``.

    Keys, sizes, classes and image hashes are those of the atlas; no map is read. The mask of a sample is the union of
    the objects that ``masks`` has of it. A sample without a mask has the status ``missing_mask``; masks of no sample
    with maps are listed in ``unused.csv``.

    Args:
        atlas: the atlas of the images.
        masks: as ``pipeline.truth.read_masks`` returns them.
        formats: names in ``LABEL_FORMATS``.
        out: output folder or URL.
        target: the class of a mask is the one that the maps of this target explain.
        tool: what made the masks.
        classes: names of the classes, by class id; empty are those of the atlas.
        options: where it is computed.
        log: called with a sentence on samples without a mask, and on masks without a sample.

    Raises:
        UsageError: there is no such format or target; no mask is of a sample; a mask has another size than its image or
            matches two samples; there are boxes, or masks of several classes, instead of masks; the folder holds other
            labels; or a key occurs in two shards. A mask that cannot be decoded is found while shards are written.
    """
    names = tuple(dict.fromkeys(formats))
    check_formats(names, target)
    target = atlas.find_target(target)
    classes = atlas.class_names(classes)
    refuse_shared_keys(atlas, names)
    if masks.classes:
        raise UsageError(f"{masks.name}: has masks of {len(masks.classes)} classes; write one mask for each image")
    matched = _match_masks(atlas, masks, target)
    matched.report(masks.name, log)
    _decode(masks.name, matched.first)
    about = ImportSpec(
        source=masks.name,
        masks=masks.digest,
        tool=tool,
        target=target,
        run=atlas.run.run_hash,
        classes=sha256("\n".join(classes).encode()) if classes else None,
    )
    context = ExportContext(about.digest(), classes, atlas.run.spec.grouping)
    function = partial(_import_shard, names, context, masks.name, target)
    title, objects = f"label from {masks.name}", ObjectStore(out)
    labels = _ImportedLabels(
        title, function, atlas, objects, about=about, methods=(), formats=names, context=context, matched=matched
    )
    return derive(labels, options)


@dataclass
class _Matches:
    """The masks of an atlas.

    Attributes:
        by_shard: mask of each sample with maps that has one, by key, by shard; in the coordinates of its maps.
        missing: keys of samples with maps that have no mask.
        unused: why no label has a mask, by its key.
    """

    by_shard: dict[str, _MaskByKey] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> Truth:
        return next(mask for masks in self.by_shard.values() for mask in masks.values())

    def report(self, name: str, log: Callable[[str], None]) -> None:
        """Say what has no counterpart.

        Raises:
            UsageError: no sample with maps has a mask.
        """
        if not any(self.by_shard.values()):
            keys = f"{next(iter(self.unused), 'none')!r:.80} and {next(iter(self.missing), 'none')!r:.80}"
            raise UsageError(f"{name}: has no mask of a sample with maps; keys there and in the atlas are {keys}")
        if self.missing:
            log(f"{len(self.missing)} samples have no mask in {name}, such as {self.missing[0]}")
        if self.unused:
            key, reason = next(iter(self.unused.items()))
            log(f"{len(self.unused)} masks of {name} are not used, such as that of {key}: {reason}; see {UNUSED}")


def _match_masks(atlas: MapReader, masks: TruthSet, target: str) -> _Matches:
    matched, matcher = _Matches(unused=dict.fromkeys(masks, "no sample has this key")), TruthMatcher(masks)
    place = atlas.run.spec.target_names.index(target)
    for shard in atlas.shard_names:
        by_key = matched.by_shard[shard] = {}
        for sample in atlas.samples_of(shard, _COLUMNS).to_pylist():
            if sample["status"] == SampleStatus.DUPLICATE_KEY:
                continue
            mask = matcher.match(shard, sample["key"])
            status = sample["status"]
            if status == SampleStatus.OK and not has_map(sample, place, target):
                status = LabelStatus.NO_LABEL
            if mask is None:
                matched.missing += [sample["key"]] * (status == SampleStatus.OK)
            elif not mask.is_annotated:  # a tool lists images that nobody has looked at in the same way
                matched.missing += [sample["key"]] * (status == SampleStatus.OK)
                matched.unused[mask.key] = "its image has no annotation; a run length of 0 pixels says that it is empty"
            elif status != SampleStatus.OK:
                matched.unused[mask.key] = f"its sample has the status {status}"
            else:
                del matched.unused[mask.key]
                _check_size(masks.name, mask, sample)
                by_key[sample["key"]] = mask.for_sample(sample, atlas.run.spec.exif)
    return matched


def _check_size(name: str, mask: Truth, sample: Mapping[str, int]) -> None:
    sizes = [(sample["width"], sample["height"])]
    if swaps_sides(sample["orientation"]):
        sizes.append(sizes[0][::-1])
    if mask.width is not None and (mask.width, mask.height) not in sizes:
        image = f"{sample['width']}×{sample['height']}"
        raise UsageError(
            f"{name}: the mask of {mask.key} is {mask.width}×{mask.height} pixels, its image {image}; resize it by "
            "nearest pixel, or name the masks of these images"
        )


def _decode(name: str, truth: Truth) -> tuple[Mask, Mask]:
    """Return the object and the ignored pixels of a mask, bool [height, width] each.

    Raises:
        UsageError: there are only boxes, or the mask cannot be decoded.
    """
    mask = truth.mask
    if mask is None and len(truth.boxes):
        raise UsageError(f"{name}: has boxes of {truth.key} and no mask; write masks")
    assert truth.width is not None, "it is that of the sample"
    assert truth.height is not None, "it is that of the sample"
    foreground = np.zeros((truth.height, truth.width), bool) if mask is None else mask
    return foreground, truth.ignore & ~foreground


@dataclass(frozen=True, kw_only=True)
class _ImportedLabels(LabelProduct[_MaskByKey, ImportSummary]):
    about: ImportSpec
    matched: _Matches

    def inputs(self, shards: Sequence[str]) -> Iterable[_MaskByKey]:
        return [self.matched.by_shard[shard] for shard in shards]

    def remove_summary(self) -> None:
        super().remove_summary()
        self.objects.delete(UNUSED)

    def summarize(self, totals: LabelTotals, objects: ProductStore) -> ImportSummary:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["key", "reason"])
        rows.writerows([escape_control(key), reason] for key, reason in sorted(self.matched.unused.items()))
        objects.put(UNUSED, text.getvalue().encode("utf-8", "backslashreplace"))
        return ImportSummary(source=self.about, unused=len(self.matched.unused), **vars(totals))


def _import_shard(
    formats: tuple[str, ...], context: ExportContext, name: str, target: str, task: ShardTask[MapReader, _MaskByKey]
) -> ShardResult:
    return write_labels(task, formats, context, _iter_labels(task, name, target))


def _iter_labels(task: ShardTask[MapReader, _MaskByKey], name: str, target: str) -> Iterator[Label]:
    """Yield the labels of one shard, in its order."""
    spec = task.source.run.spec
    place = spec.target_names.index(target)
    for sample in task.source.shard(task.shard).samples.to_pylist():
        if sample["status"] != SampleStatus.OK:
            label = Label(sample, sample["status"])
        elif not has_map(sample, place, target):
            label = Label(sample, LabelStatus.NO_LABEL)
        else:
            class_id, probability = explained_class(sample, target, spec.target_names)
            label = Label(sample, LabelStatus.MISSING_MASK, class_id=class_id, probability=probability)
            if sample["key"] in task.data:
                label = with_mask(label, *_decode(name, task.data[sample["key"]]))
        yield replace(label, exif=spec.exif)
