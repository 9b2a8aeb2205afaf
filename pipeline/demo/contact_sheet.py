"""Contact sheet of an atlas: one row per sample, one column per method, with masks and ground truth."""

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
"""Inches of a cell, and of the margins left of and above all cells."""
_LEGEND = (
    "maps from blue (0) to red (1), best PxAP first, controls last; ignored pixels violet; outlined in white: the truth"
)


def plot_contact_sheet(
    atlas: Atlas,
    shard: str,
    ordinals: Sequence[int],
    methods: Sequence[str],
    policies: Sequence[Policy],
    truth: TruthSet,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Plot a contact sheet and save it as PNG.

    Args:
        atlas: atlas.
        shard: name of the shard with the samples.
        ordinals: places of the samples in the shard, one for each row.
        methods: methods, one for each column.
        policies: policies of the masks in the last columns.
        truth: ground truth, outlined in the first and the last columns.
        class_names: names of the classes.
        path: output file.
    """
    atlas_shard = atlas.shard(shard)
    samples = atlas_shard.samples.to_pylist()
    images = _read_images(atlas, shard)
    maps = {method: atlas_shard.maps(method) for method in methods}
    labels = [{label.sample["ordinal"]: label for label in iter_labels(atlas, shard, policy)} for policy in policies]
    columns = ["image", *methods, *(f"mask: {policy.name}" for policy in policies)]
    width, height = _CELL * len(columns) + _LEFT, _CELL * len(ordinals) + _TOP
    figure = Figure(figsize=(width, height), dpi=110)
    # A fixed layout: automatic layout takes longer than everything else.
    edges = {"left": _LEFT / width, "right": 0.998, "bottom": 0.01, "top": 1 - _TOP / height}
    grid = figure.subplots(
        len(ordinals), len(columns), squeeze=False, gridspec_kw=edges | {"wspace": 0.05, "hspace": 0.05}
    )
    for axes, ordinal in zip(grid, ordinals, strict=True):
        sample = samples[ordinal]
        image, annotation = images[ordinal], truth.find(sample["key"])
        true_mask = annotation.mask if annotation is not None else None
        axes[0].imshow(image)
        axes[0].set_ylabel(class_names[sample["label"]], fontsize=7)
        for axis, method in zip(axes[1:], methods, strict=False):
            heatmap = upsample_to_image(maps[method][ordinal], sample, atlas.run.model.input_size)
            axis.imshow(blend_heatmap(image, heatmap))
        mask_axes = axes[-len(policies) :]
        for axis, label_by_ordinal in zip(mask_axes, labels, strict=True):
            axis.imshow(_tint(image, label_by_ordinal[ordinal]))
        for axis in (axes[0], *mask_axes):
            if true_mask is not None:
                axis.contour(true_mask, levels=[0.5], colors="white", linewidths=0.8)
    for axis, title in zip(grid[0], columns, strict=True):
        axis.set_title(title.replace("_", "\n", 1), fontsize=7)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_aspect("auto")
    figure.suptitle(_LEGEND, fontsize=8, x=0.01, ha="left")
    figure.savefig(path)


def _read_images(atlas: Atlas, shard_name: str) -> list[NDArray[np.uint8]]:
    shard = next(shard for shard in atlas.run.shards if shard.name == shard_name)
    images = (sample.image() for sample in read_samples(shard, atlas.run.slot, atlas.run.spec.grouping))
    return [np.asarray(Image.open(io.BytesIO(image.data or b"")).convert("RGB")) for image in images if image]


def _tint(image: NDArray[np.uint8], label: Label) -> NDArray[np.uint8]:
    """Return the image with dark background and violet ignored pixels."""
    mask, ignore = label.mask, label.ignore
    tinted = image * 0.35
    if mask is not None and ignore is not None:
        tinted[mask] = image[mask]
        tinted[ignore] = 0.35 * image[ignore] + np.array([80, 0, 110])
    return tinted.astype(np.uint8)
