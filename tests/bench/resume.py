"""How long a resume takes that finds everything done: an atlas of 1.28 million rows in 1,024 shards.

The shards do not exist, so that opening one would fail; their commit records are as long as real ones of twenty
methods. Then the same with 10³ and 10⁵ shards of which nothing is done, for the memory of the driver.

    python tests/bench/resume.py
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.store import ObjectStore, zarr_arrays
from schemas import layout
from schemas.commits import CommitRecord, ObjectRecord
from schemas.layout import RUN, commit_object, samples_object, shard_object
from schemas.model import ModelRecord
from schemas.run import ModelSpec, RunSpec
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord, SourceRecord

METHODS = tuple(f"method_{number:02d}" for number in range(20))
ROWS = 1251


def simulated(shard_names: int) -> RunRecord:
    """A planned run over shards that nobody has."""
    spec = RunSpec(
        shards=("gone-*.tar",), model=ModelSpec(name="vit_base_patch16_224", pretrained=True), methods=METHODS
    )
    model = ModelRecord(
        name="vit_base_patch16_224", weights="sha256:" + "0" * 64, parameters=86567656, classes=1000,
        input_size=(224, 224), grid=(14, 14), prefix_tokens=1, readout="class token", mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5), interpolation="bicubic", crop_pct=0.9, crop_mode="center",
    )  # fmt: skip
    names = [f"imagenet1k-train-{index:06d}" for index in range(shard_names)]
    shards = tuple(ShardRecord(name=name, url=f"/gone/{name}.tar", samples=ROWS, size=141 * 2**20) for name in names)
    return RunRecord(
        spec=spec, run_hash=spec.digest(), model=model, methods={name: {} for name in METHODS}, extra_outputs={},
        slot=1280, chunk=256, shards=shards, versions={},
    )  # fmt: skip


def committed(run: RunRecord, shard_index: int) -> CommitRecord:
    """The record of a shard that went well."""
    shard = run.shards[shard_index].name
    paths = [
        shard_object(name, shard_index, len(kind.dims))
        for method in METHODS
        for name, kind in layout.arrays(method, ()).items()
    ]
    objects = [
        ObjectRecord(path=path, size=501760, sha256="sha256:" + "1" * 64) for path in [*paths, samples_object(shard)]
    ]
    return CommitRecord(
        shard=shard, shard_index=shard_index, rows=ROWS, ok=ROWS, statuses={"ok": ROWS}, degenerate={}, drift={},
        objects=tuple(objects), run_hash=run.run_hash, source=SourceRecord(size=141 * 2**20), versions={"torch": "2"},
        seconds=dict.fromkeys(METHODS, 1.0), attempt=1, host="host", finished="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def write(url: str, shards: int, done: int) -> None:
    """A simulated atlas."""
    objects, run = ObjectStore(url), simulated(shards)
    zarr_arrays.create_arrays(objects, run)
    objects.put(RUN, run.to_bytes())
    for index in range(done):
        objects.put(commit_object(run.shards[index].name), committed(run, index).to_bytes())


DRIVE = """
import sys
from pathlib import Path
from pipeline.run import INLINE
from pipeline.run import driver
from pipeline.run.events import ShardQuarantined
from schemas.errors import RunFailedError
def peak():
    # Not getrusage, which begins with what the process that started this one had.
    return next(int(line.split()[1]) // 1024 for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
def simulated(atlas, shards, options, retry_failed, shutdown):
    # Shards are assigned and done, as the pool does.
    from pipeline.run.dispatch import Dispatcher
    dispatcher = Dispatcher(shards)
    for actor in range(8):
        dispatcher.add_worker(actor)
    begin = peak()
    while not dispatcher.finished:
        while dispatcher.next():
            pass
        for actor in dispatcher.busy:
            dispatcher.finish(actor, dispatcher.current_shard(actor))
    print(begin, peak())
    yield from ()
driver._events = simulated
try:
    driver.run(sys.argv[1], INLINE)
except RunFailedError:
    pass
"""


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/finished"
        write(url, 1024, 1024)
        for executor in ("inline", "ray"):
            command = [sys.executable, "-m", "jobs.cli", "run", url, "--executor", executor]
            begun = time.perf_counter()
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            print(f"resume of a finished atlas, {executor}: {time.perf_counter() - begun:.2f} s, {text!r}")
        for shards in (1_000, 10_000, 100_000):
            url = f"{folder}/open-{shards}"
            Path(url).mkdir()
            ObjectStore(url).put(RUN, simulated(shards).to_bytes())
            text = subprocess.run([sys.executable, "-c", DRIVE, url], check=True, capture_output=True, text=True).stdout
            before, after = text.split()
            print(
                f"{shards:,} shards: driver {before} MB when it has read the plan, {after} MB at most when all are done"
            )


if __name__ == "__main__":
    main()
