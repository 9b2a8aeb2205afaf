"""Memory of a probe on features of the size of ImageNet: ``python tests/bench/probe.py FOLDER``.

Writes 1,281,167 × 768 random features of 1000 classes (2 GB), standardizes all, and takes a step of a fit on as many
as ``--fit-rows`` says: the memory of a step does not depend on the number of rows.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.head import logistic_regression
from pipeline.head.feature_table import FeatureTable, ShardFeatures
from pipeline.head.logistic_regression import Scaling, fit, start_fit

ROWS, WIDTH, CLASSES, SHARD = 1_281_167, 768, 1000, 1251
CPU = torch.device("cpu")


def write(folder: Path, rows: int) -> list[Path]:
    """Write shards of features around a direction of each class."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for start in range(0, rows, SHARD):
        files.append(folder / f"{start:07d}.safetensors")
        if files[-1].exists():
            continue
        count, rng = min(SHARD, rows - start), np.random.default_rng([1, start])
        labels = rng.integers(0, CLASSES, count)
        features = 0.1 * centres[labels] + rng.standard_normal((count, WIDTH), np.float32)
        tensors = torch.from_numpy(features).half(), torch.from_numpy(labels), torch.arange(start, start + count)
        files[-1].write_bytes(ShardFeatures(*tensors, ()).to_bytes({}))
    return files


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--fit-rows", type=int, default=ROWS // 10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = FeatureTable.open(write(arguments.folder, arguments.rows))
    seconds = {}

    def lap(name: str, start: float) -> None:
        seconds[name] = round(time.perf_counter() - start, 1)

    start = time.perf_counter()
    scaling = Scaling.measure(table.rows(np.arange(len(table)) % 10 != 0), CPU)
    lap("standardization of all", start)
    logistic_regression._STEPS = 1
    rows = table.rows(np.arange(len(table)) < arguments.fit_rows)
    start = time.perf_counter()
    fit(rows, scaling, 1e-3, start_fit(rows, CLASSES), CPU)
    lap(f"one step on {len(rows)}", start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"rows": len(table), "seconds": seconds, "peak GB": round(peak, 2)}))


if __name__ == "__main__":
    main()
