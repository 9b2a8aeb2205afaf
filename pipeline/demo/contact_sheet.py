"""One picture of an atlas: a row a sample, a column a method, masks and truth beside them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.image import blend_heatmap, upsample_to_image
from pipeline.label import iter_labels
from pipeline.label.mask import Label
from pipeline.read.shard_reader import read_samples
from pipeline.store import Atlas
from pipeline.truth import TruthSet
from schemas.policy import Policy

_CELL, _LEFT, _TOP = 1.15, 0.2, 0.75
"""Inches of a cell, and of what is beside and above them all."""
_LEGEND = (
    "maps from blue (0) to red (1), best PxAP first, controls last; ignored pixels violet; outlined in white: the truth"
)


def plot_contact_sheet(
    atlas: Atlas,
    shard: str,
    rows: Sequence[int],
    methods: Sequence[str],
    policies: Sequence[Policy],
    truth: TruthSet,
    names: Sequence[str],
    path: Path,
) -> None:
    """Draw a sheet as PNG.

    Args:
        shard: whose samples are shown.
        rows: which of them, by their place in the shard.
        methods: a column each, in this order.
        policies: of the masks in the last columns, one each.
        truth: outlined in the first column and beside the masks.
        names: of the classes.
    """
    part = atlas.shard(shard)
    samples = part.samples.to_pylist()
    pictures = _pictures(atlas, shard)
    maps = {method: part.maps(method) for method in methods}
    labels = [{label.sample["ordinal"]: label for label in iter_labels(atlas, shard, policy)} for policy in policies]
    columns = ["image", *methods, *(f"mask: {policy.name}" for policy in policies)]
    width, height = _CELL * len(columns) + _LEFT, _CELL * len(rows) + _TOP
    figure = Figure(figsize=(width, height), dpi=110)
    # Laid out by hand, since to have it done takes longer than all the rest.
    edges = {"left": _LEFT / width, "right": 0.998, "bottom": 0.01, "top": 1 - _TOP / height}
    grid = figure.subplots(len(rows), len(columns), squeeze=False, gridspec_kw=edges | {"wspace": 0.05, "hspace": 0.05})
    for line, row in zip(grid, rows, strict=True):
        sample = samples[row]
        picture, known = pictures[row], truth.find(sample["key"])
        real = known.mask if known is not None else None
        line[0].imshow(picture)
        line[0].set_ylabel(names[sample["label"]], fontsize=7)
        for axis, method in zip(line[1:], methods, strict=False):
            heat = upsample_to_image(maps[method][row], sample, atlas.run.model.input_size)
            axis.imshow(blend_heatmap(picture, heat))
        marked = line[-len(policies) :]
        for axis, by_row in zip(marked, labels, strict=True):
            axis.imshow(_tinted(picture, by_row[row]))
        for axis in (line[0], *marked):
            if real is not None:
                axis.contour(real, levels=[0.5], colors="white", linewidths=0.8)
    for axis, title in zip(grid[0], columns, strict=True):
        axis.set_title(title.replace("_", "\n", 1), fontsize=7)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_aspect("auto")
    figure.suptitle(_LEGEND, fontsize=8, x=0.01, ha="left")
    figure.savefig(path)


def _pictures(atlas: Atlas, shard_name: str) -> list[NDArray[np.uint8]]:
    shard = next(shard for shard in atlas.run.shards if shard.name == shard_name)
    images = (group.image() for group in read_samples(shard, atlas.run.slot))
    return [np.asarray(Image.open(io.BytesIO(image.data or b"")).convert("RGB")) for image in images if image]


def _tinted(picture: NDArray[np.uint8], label: Label) -> NDArray[np.uint8]:
    """The object as it is, background dark, what is ignored violet."""
    mask, ignore = label.mask, label.ignore
    tinted = picture * 0.35
    if mask is not None and ignore is not None:
        tinted[mask] = picture[mask]
        tinted[ignore] = 0.35 * picture[ignore] + np.array([80, 0, 110])
    return tinted.astype(np.uint8)
