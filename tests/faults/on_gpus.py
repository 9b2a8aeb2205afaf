"""``vitatlas`` on GPUs that are not there.

An actor takes one of Ray's, computes on the CPU all the same, notes where it does what, and from the seventh shard on
waits until it may go on.

    python on_gpus.py FOLDER run ATLAS …
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray

from jobs.cli import main
from pipeline.run import ray_executor

FOLDER = Path()
"""For the notes; named by the first argument."""
FREE = 6


class OnGpu(ray_executor._ShardActor):
    def prepare(self, url: str, device: str, *rest: Any) -> Any:
        assert device == "cuda"
        return super().prepare(url, "cpu", *rest)

    def process(self, shard_index: int, attempt: int) -> Any:
        context = ray.get_runtime_context()
        place = {"node": context.get_node_id(), "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
        place["host"] = ray.util.get_node_ip_address()
        with (FOLDER / "notes").open("a") as notes:
            notes.write(json.dumps({"shard_index": shard_index, "actor": context.get_actor_id()} | place) + "\n")
        while shard_index >= FREE and not (FOLDER / "go on").exists():
            time.sleep(0.05)
        return super().process(shard_index, attempt)


if __name__ == "__main__":
    FOLDER = Path(sys.argv.pop(1))
    ray_executor._ShardActor = OnGpu  # type: ignore[misc]
    main()
