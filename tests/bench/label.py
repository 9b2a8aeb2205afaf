"""How long 10,000 labels of the demo take, with and without refinement: end to end on all cores, and stage by stage.

python tests/bench/label.py --tars 4 --scenes 250
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from pipeline.demo.synthetic_dataset import SHARDS, SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL
from pipeline.label import LABEL_FORMATS, label
from pipeline.label.formats.base import ExportContext
from pipeline.label.label_shard import iter_heatmaps
from pipeline.label.mask import make_label
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.policy import Pamr, Policy, Postprocess, Threshold
from schemas.run import ModelSpec, RunSpec

T = TypeVar("T")

PLAIN = Policy(
    name="legrad-otsu", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=Postprocess(min_area=0.01)
)
REFINED = PLAIN.model_copy(update={"name": "legrad-pamr-otsu", "refine": Pamr()})
_TIMES = 10


def draw(folder: Path, shards: int, scenes: int) -> str:
    """Brace pattern of the shards of a world, each ten times."""
    world = SyntheticDataset(folder, shards, scenes)
    write_dataset(world)
    several = folder / "several"
    several.mkdir()
    for number in range(_TIMES * shards):
        (several / f"{number:03d}.tar").hardlink_to(folder / SHARDS / f"demo-validation-{number % shards:02d}.tar")
    return str(several / f"{{000..{_TIMES * shards - 1:03d}}}.tar")


def end_to_end(url: str, policy: Policy, formats: list[str], out: str) -> tuple[int, float]:
    """How many labels, and the seconds of ``label``."""
    begun = time.perf_counter()
    counts = label(Atlas.open(url), policy, formats, out).counts
    return sum(counts.values()), time.perf_counter() - begun


def stages(atlas: Atlas, policy: Policy, formats: list[str]) -> Iterator[tuple[str, float]]:
    """Milliseconds a label of each stage, of the first shard, on one core."""
    shard, frame = next(iter(atlas.commits)), atlas.run.model.input_size
    rows = atlas.record(shard).rows

    def timed(work: Callable[[], Iterable[T]]) -> tuple[list[T], float]:
        begun = time.process_time()
        return list(work()), (time.process_time() - begun) * 1000 / rows

    timed(lambda: iter_heatmaps(atlas, shard, policy))  # imports, and whatever the first call sets up
    found, took = timed(lambda: iter_heatmaps(atlas, shard, policy))
    yield "maps" if policy.refine is None else "maps, pictures, refinement", took
    labels, took = timed(
        lambda: [make_label(heat, sample, frame, policy) for heat, sample in found if heat is not None]
    )
    yield "masks", took
    for name in formats:
        yield name, timed(lambda name=name: LABEL_FORMATS[name].export(shard, labels, ExportContext("sha256:0")))[1]


def main() -> None:
    """Print seconds of 10,000 labels, and what each stage takes of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=250, help="in each shard")
    parser.add_argument("--formats", default="png,coco")
    given = parser.parse_args()
    formats = given.formats.split(",")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = draw(Path(folder), given.shards, given.scenes)
        model, url = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True), f"{folder}/atlas"
        plan(RunSpec(shards=(shards,), model=model, methods=("legrad",), targets=("label",)), url)
        atlas = run(url, INLINE)
        for policy in (PLAIN, REFINED):
            labels, took = end_to_end(url, policy, formats, f"{folder}/{policy.name}")
            print(
                f"{policy.name}: {took:.1f} s for {labels:,} labels in {', '.join(formats)} on {os.cpu_count()} cores"
            )
            for stage, each in stages(atlas, policy, formats):
                print(f"  {stage:28} {each:6.2f} ms a label on one core")


if __name__ == "__main__":
    main()
