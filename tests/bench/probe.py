"""Memory and time of a probe on features of the size of ImageNet: ``python tests/bench/probe.py FOLDER``.

Writes 1,281,167 × 768 random features of 1000 classes (2 GB) and takes as many steps as ``--steps`` says.
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
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for start in range(0, rows, SHARD):
        count = min(SHARD, rows - start)
        labels = rng.integers(0, CLASSES, count)
        features = 0.1 * centres[labels] + rng.standard_normal((count, WIDTH), np.float32)
        tensors = torch.from_numpy(features).half(), torch.from_numpy(labels), torch.arange(start, start + count)
        files.append(folder / f"{start:07d}.safetensors")
        if not files[-1].exists():
            files[-1].write_bytes(ShardFeatures(*tensors, ()).to_bytes({}))
    return files


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = FeatureTable.open(write(arguments.folder, arguments.rows))
    seconds = {}

    def lap(name: str, start: float) -> None:
        seconds[name] = round(time.perf_counter() - start, 1)

    rows = table.rows(np.arange(len(table)) % 10 != 0)
    start = time.perf_counter()
    scaling = Scaling.measure(rows, CPU)
    lap("standardization", start)
    logistic_regression._STEPS = arguments.steps
    start = time.perf_counter()
    result = fit(rows, scaling, 1e-3, start_fit(rows, CLASSES), CPU)
    lap(f"{result.steps} steps", start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"rows": len(table), "seconds": seconds, "peak GB": round(peak, 2)}))


if __name__ == "__main__":
    main()
