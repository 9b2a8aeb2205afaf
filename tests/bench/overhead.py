"""What a run costs beside its arithmetic: images/s of ``run`` with one CPU actor over those of ``bench``'s bare loop.

Both in one thread, on the demo network, with the same methods and batch; the two are measured in turn, and the
ratio is of each pair.

    python tests/bench/overhead.py --pairs 3 --shards 6
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import ray

from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.demo.train_model import MODEL
from pipeline.explain import methods as registry
from pipeline.explain.bench import benchmark
from pipeline.explain.load import load_model
from pipeline.run import ExecutionOptions, run
from pipeline.run.dispatch import Dispatcher
from pipeline.run.plan import plan
from schemas.run import ModelSpec, RunSpec

_BATCH = 32


def main() -> None:
    """Print each pair, the median ratio, and where the time of a run went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--methods", default="")
    given = parser.parse_args()
    model = ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)
    chosen = (
        given.methods.split(",") if given.methods else [m.spec for m in registry.defaults(load_model(model).anatomy)]
    )
    ready_times: list[float] = []
    add_worker = Dispatcher.add_worker

    def timed(self: Dispatcher, actor: int, now: float = 0.0, cached: Iterable[int] = ()) -> None:
        ready_times.append(time.perf_counter())
        add_worker(self, actor, now, cached)

    Dispatcher.add_worker = timed  # type: ignore[method-assign]
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        world = SyntheticDataset(Path(folder), given.shards, given.scenes)
        write_dataset(world)
        # One target, as bench has it: the second is computed only where it differs.
        spec = RunSpec(
            shards=(world.shards,), model=model, methods=tuple(chosen), targets=("label",), batch_size=_BATCH
        )
        ratios, stages = [], Counter[str]()
        for pair in range(given.pairs):
            bare = benchmark(f"local-dir:{MODEL}", chosen, device="cpu", batch_size=_BATCH, threads=1, repeats=9)
            url = f"{folder}/atlas-{pair}"
            plan(spec, url)
            atlas = run(url, ExecutionOptions(actors=1))
            took = time.perf_counter() - ready_times[-1]
            whole = given.shards * given.scenes / took
            ratios.append(whole / bare.all_methods.images_per_s)
            print(
                f"bare {bare.all_methods.images_per_s:.1f} images/s, run {whole:.1f} images/s, ratio {ratios[-1]:.3f}"
            )
            for commit in atlas.records():
                stages.update(commit.seconds)
        total = stages.pop("total")
        print(f"median ratio {statistics.median(ratios):.3f}")
        for stage, seconds in stages.most_common():
            print(f"  {stage:20} {100 * seconds / total:5.1f} %")


if __name__ == "__main__":
    main()
