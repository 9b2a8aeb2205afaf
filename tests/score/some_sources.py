"""Builders of predictions in files: score maps, masks and boxes of the demo world."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from pipeline.score.sources import ScoreSource
from pipeline.store import Atlas


def write_maps(atlas: Atlas, keys: Iterable[str], method: str, folder: Path, suffix: str = ".npy") -> Path:
    """Write maps of an atlas as another program would: on the patch grid, named by image id."""
    folder.mkdir(parents=True)
    for key in keys:
        values = atlas.map(key, method)
        if suffix == ".npy":
            np.save(folder / f"{key}.jpg.npy", values.astype(np.float64) * 7 - 3)
        else:
            np.savez_compressed(folder / f"{key}.npz", values.astype(np.float64) * 7 - 3)
    return folder


def pack_tar(folder: Path, tar: Path) -> Path:
    with tarfile.open(tar, "w") as archive:
        archive.add(folder, ".")
    return tar


def write_masks(masks: dict[str, np.ndarray], folder: Path) -> Path:
    """Write masks as gray PNGs of 0 and 255."""
    folder.mkdir(parents=True)
    for key, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{key}.png")
    return folder


def write_results(results: list[dict], file: Path) -> Path:
    file.write_text(json.dumps(results))
    return file


def runs_of(mask: np.ndarray) -> dict:
    coded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def read_all(source: ScoreSource) -> dict[str, np.ndarray]:
    """Return the prediction of each image."""
    found = [pair for shard in source.shard_names for pair in source.predictions(shard, source.methods)]
    return {image.key: next(iter(read().values())) for image, read in found}
