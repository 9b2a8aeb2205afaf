"""Localization scores of an atlas: every method against the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.parallel import over
from pipeline.score.localization import BoxCounter, PixelCounter, resize_mask, score_map
from pipeline.score.truth import Truth, read_truth
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.layout import SCORES
from schemas.run import RunRecord, Target
from schemas.samples import Status
from schemas.scores import LOCALIZATION


@dataclass
class Counters:
    """Of one method; adds over tars."""

    boxes: BoxCounter = field(default_factory=BoxCounter)
    pixels: PixelCounter | None = field(default_factory=PixelCounter)

    def __add__(self, other: "Counters") -> "Counters":
        both = self.pixels and other.pixels
        return Counters(self.boxes + other.boxes, self.pixels + other.pixels if both else None)  # type: ignore[operator]


def score(url: str, truth: str, target: Target = "label", methods: Sequence[str] = ()) -> pa.Table:
    """Score the maps of an atlas, and keep the table in ``scores/localization-<target>.parquet``.

    Args:
        truth: a COCO file, or a folder that has one.
        target: whose maps; ``label`` is what the literature calls GT-known.
        methods: empty is all.

    Returns:
        A table as ``schemas.scores.LOCALIZATION``, best PxAP first.

    Raises:
        UsageError: no truth for a picture, truth of another size, no such method or target.
    """
    atlas = Atlas.open(url)
    if target not in atlas.run.spec.targets:
        raise UsageError(f"{url}: has no target {target!r}, only {', '.join(atlas.run.spec.targets)}")
    for method in methods:
        if method not in atlas.methods:
            raise UsageError(f"{url}: has no maps of {method!r}, only {', '.join(atlas.methods)}")
    known = read_truth(truth)
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    work = partial(_score_tar, url, known, target, chosen)
    totals = {method: Counters() for method in chosen}
    for part in over(work, list(atlas.commits), "score"):
        totals = {method: totals[method] + part[method] for method in chosen}
    if not totals[chosen[0]].boxes.images:
        raise UsageError(f"{url}: has no sample with maps and an object in {truth}")
    rows = [_row(method, target, counters) for method, counters in totals.items()]
    rows.sort(key=lambda row: (-(row["pxap"] or 0), -row["maxboxacc_v2"]))
    table = pa.Table.from_pylist(rows, schema=LOCALIZATION)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    atlas.objects.put(f"{SCORES}/localization-{target}.parquet", buffer.getvalue().to_pybytes())
    return table


def _score_tar(
    url: str, truth: dict[str, Truth], target: Target, methods: tuple[str, ...], tar: str
) -> dict[str, Counters]:
    atlas = Atlas.open(url)
    part = atlas.tar(tar)
    counters = {method: Counters() for method in methods}
    samples = part.samples.to_pylist()
    maps = {method: part.maps(method, target) for method in methods}
    for place, sample in enumerate(samples):
        if sample["status"] != Status.OK:
            continue
        known = _truth_of(sample, truth)
        boxes = known.boxes
        if not len(boxes):
            continue
        mask = known.mask
        inside = None if mask is None else resize_mask(mask)
        ignored = resize_mask(known.ignore)
        window = _window(atlas.run, sample)
        for method in methods:
            values = score_map(maps[method][place], window)
            counter = counters[method]
            counter.boxes.add(values, boxes)
            if inside is None or counter.pixels is None:
                counter.pixels = None
            else:
                counter.pixels.add(values, inside, ignored)
    return counters


def _truth_of(sample: dict[str, Any], truth: dict[str, Truth]) -> Truth:
    key = sample["key"].removeprefix("./")
    if key not in truth:
        raise UsageError(f"{key}: the truth has no such picture; add it, or score an atlas of its pictures only")
    known = truth[key]
    if (known.width, known.height) != (sample["width"], sample["height"]):
        raise UsageError(
            f"{key}: is {sample['width']}×{sample['height']} pixels, but {known.width}×{known.height} in the truth"
        )
    return known


def _window(run: RunRecord, sample: dict[str, Any]) -> tuple[float, float, float, float]:
    """What the network saw, as fractions of the picture: x0, y0, x1, y1."""
    height, width = run.model.input_size
    x0, y0 = sample["offset_x"] / sample["width"], sample["offset_y"] / sample["height"]
    x1 = x0 + sample["scale_x"] * width / sample["width"]
    y1 = y0 + sample["scale_y"] * height / sample["height"]
    return x0, y0, x1, y1


def _row(method: str, target: str, counters: Counters) -> dict[str, Any]:
    boxes, pixels = counters.boxes, counters.pixels
    iou30, iou50, iou70 = boxes.by_iou
    return {
        "method": method,
        "target": target,
        "images": boxes.images,
        "pxap": pixels.pxap if pixels is not None and pixels.inside.any() else None,
        "maxboxacc": boxes.max_box_acc,
        "maxboxacc_v2": boxes.max_box_acc_v2,
        "iou30": iou30,
        "iou50": iou50,
        "iou70": iou70,
    }
