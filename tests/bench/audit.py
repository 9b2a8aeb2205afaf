"""What an audit costs: CPU seconds by part, and by metric, on the demo network and 17 methods.

All runs in this process and on one thread, so its CPU time is that of the audit, however busy the machine is. Processes
that run at once add 4 s each for their start.

    python tests/bench/audit.py --scenes 1000 --folder FOLDER

makes the atlas in the folder once; ``--images 16 --sanity 16`` is enough to compare metrics.
"""

import argparse
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pipeline.audit.audit_atlas as audit
import pipeline.metrics.evaluate_atlas as metrics
from pipeline.audit.audit_atlas import AuditOptions
from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL
from pipeline.metrics import METRICS
from pipeline.run import INLINE, run
from pipeline.run.execution import ComputeOptions
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.audit_samples import FAITHFULNESS_IMAGES, RECOMPUTED_IMAGES, SANITY_IMAGES
from schemas.run import ModelSpec, RunSpec

METHODS = (
    *("attention", "rollout", "generic_attention", "gradcam", "attn_gradcam", "agcam", "legrad", "reciprocam", "pm_zs"),
    *("grad_input", "cp_lrp", "attn_lrp", "libra_fullgrad", "center", "uniform", "random", "edges"),
)
PARTS = ("write_map_tables", "find_shortcuts", "build_reproducibility_table", "write_report", "write_manifest")
"""Parts beside the metrics, by the function of each."""


def main() -> None:
    """Print CPU seconds by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench-audit"))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=FAITHFULNESS_IMAGES)
    parser.add_argument("--sanity", type=int, default=SANITY_IMAGES)
    parser.add_argument("--recompute", type=int, default=RECOMPUTED_IMAGES)
    chosen = parser.parse_args()
    atlas, dataset = make_atlas(chosen.folder, chosen.scenes)
    out = chosen.folder / "audit"
    shutil.rmtree(out, ignore_errors=True)
    os.cpu_count = lambda: 1
    seconds: dict[str, float] = defaultdict(float)
    for module, name in ((metrics, "evaluate_metrics"), *((audit, name) for name in PARTS)):
        setattr(module, name, timed(getattr(module, name), name, seconds))
    for name, metric in METRICS.items():
        time_metric(type(metric), name, seconds)
    with counted("all", seconds):
        audit.audit_atlas(
            atlas,
            str(out),
            truth=read_truth(dataset.truth),
            audit_options=AuditOptions(chosen.images, chosen.sanity, chosen.recompute),
            options=ComputeOptions(device="cpu"),
            log=print,
        )
    for name, value in seconds.items():
        print(f"{name:<28} {value:8.1f} s of CPU {100 * value / seconds['all']:5.1f} %")


def make_atlas(folder: Path, scenes: int) -> tuple[Atlas, SyntheticDataset]:
    """Make four shards of scenes and an atlas of them, unless they exist."""
    dataset, url = SyntheticDataset(folder, num_shards=4, scenes=-(-scenes // 4)), str(folder / "atlas")
    if not (folder / "shards").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_dataset(dataset)
    model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
    plan(RunSpec(shards=(dataset.shards,), model=model, methods=METHODS), url)
    return run(url, INLINE), dataset


@contextmanager
def counted(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the CPU time of what is done inside."""
    begun = time.process_time()
    yield
    seconds[name] += time.process_time() - begun


def timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """Return a function whose CPU time is added up."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with counted(name, seconds):
            return function(*args, **options)

    return call


def time_metric(metric: type, name: str, seconds: dict[str, float]) -> None:
    """Add up the CPU time of a metric. What another one has computed before is free."""
    compute = metric.compute  # type: ignore[attr-defined]

    def call(self: Any, batch: Any) -> Iterator[Any]:
        with counted(name, seconds):
            values = list(compute(self, batch))
        return iter(values)

    metric.compute = call  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
