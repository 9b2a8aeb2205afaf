"""What faithfulness costs: seconds for 1,000 images of the demo network, and memory over the number of images.

Eight methods and both targets. Controls count as methods: to a measure they are.

    python tests/bench/faith.py --images 1000 --tars 8
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL
from pipeline.metrics import evaluate_metrics
from pipeline.run import INLINE, run
from pipeline.run.execution import ComputeOptions
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import ModelSpec, RunSpec

METHODS = ("attention", "rollout", "generic_attention", "gradcam", "agcam", "legrad", "reciprocam", "random")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--shards", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = SyntheticDataset(Path(folder), num_shards=chosen.shards, scenes=-(-chosen.images // chosen.shards))
        write_dataset(world)
        out = f"{folder}/atlas"
        model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
        plan(RunSpec(shards=(world.shards,), model=model, methods=METHODS), out)
        run(out, INLINE)
        for images in (chosen.images // 4, chosen.images):
            before, begun = _cpu(), time.perf_counter()
            found = evaluate_metrics(
                Atlas.open(out),
                f"{folder}/faith-{images}",
                "faithfulness",
                images=images,
                options=ComputeOptions(device="cpu"),
                log=print,
            )
            seconds, cpu = time.perf_counter() - begun, _cpu() - before
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(
                f"{images} images: {seconds:.0f} s, {cpu:.0f} s of CPU, {len(found):,} means, "
                f"largest process so far {peak:.0f} MB"
            )


def _cpu() -> float:
    """CPU seconds of this process and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
