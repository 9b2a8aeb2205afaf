"""Features without images: files as they are extracted, of classes that overlap."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.head.feature_table import FeatureTable, ShardFeatures


def write_features(
    folder: Path, features: NDArray[np.floating], labels: NDArray[np.integer], files: int
) -> FeatureTable:
    """A table of so many files; each row is another image."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(5).permutation(len(labels)).astype(np.int64)
    paths = []
    for number, rows in enumerate(np.array_split(np.arange(len(labels)), files)):
        tensors = (torch.from_numpy(values[rows]) for values in (features.astype(np.float16), labels, images))
        paths.append(folder / f"{number}.safetensors")
        paths[-1].write_bytes(ShardFeatures(*tensors, ()).to_bytes({}))
    return FeatureTable.open(paths)


def overlapping(rows: int, width: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Correlated features that are not centred, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    features = rng.normal(size=(classes, width))[labels] * 0.5 + rng.normal(size=(rows, width))
    return features @ rng.normal(size=(width, width)) + 3, labels
