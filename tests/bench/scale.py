"""ImageNet, and ten times ImageNet, through all that is not the network: plan, run, status, verify, label, score.

The maps of a shard are recorded, not computed: each shard of 1,250 rows is committed by the sink itself, with one
method, from the same numbers. Only ``--good`` rows of each shard have maps, so that labels and scores cost their
bookkeeping here; what each map costs is in ``tests/bench/label.py`` and ``score.py``. All shards are one file under
many names. Every stage has a process of its own, does all its shards in that process, and does not wait for the disk
(``fsync``), since that measures the disk.

    python tests/bench/scale.py --tars 1024
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from operations import counted
from support import DEMO_MODEL, samples, write_tar

from pipeline.run import INLINE, inline_executor, run
from pipeline.run.plan import package_versions, plan
from pipeline.score import score
from pipeline.store import Atlas, ObjectStore, ShardWriter
from pipeline.store.verify import verify
from pipeline.truth import read_truth
from schemas.commits import CommitRecord
from schemas.policy import Policy, Threshold
from schemas.run import RunSpec
from schemas.samples import SampleStatus

STAGES = ("plan", "run", "resume", "status", "verify", "label", "score")
_METHOD = "center"


class Recorded:
    """In the place of a worker: commits shards whose maps are known."""

    def __init__(self, url: str, *_: object, **__: object) -> None:
        atlas = Atlas.open(url)
        self.objects, self.run = atlas.objects, atlas.run
        self.good, self.rows = int(os.environ["GOOD"]), int(os.environ["ROWS"])
        rng = np.random.default_rng(0)
        self.maps = [{_METHOD: rng.random((1, *self.run.model.grid), np.float32)} for _ in range(self.good)]
        self.kept: dict[str, np.ndarray] = {}

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def process(self, shard_index: int, attempt: int) -> CommitRecord:
        sink = ShardWriter(self.objects, self.run, shard_index)
        for ordinal in range(self.rows):
            row = {
                "ordinal": ordinal,
                "key": f"{sink.shard}_{ordinal:04d}",
                "member": f"{sink.shard}_{ordinal:04d}.JPEG",
            }
            if ordinal >= self.good:
                sink.add(row | {"status": SampleStatus.MISSING_LABEL, "error": "no .cls member"}, {}, {})
                continue
            place = {"width": 500, "height": 375, "orientation": 1, "image_bytes": 110_000, "image_sha256": "0" * 64}
            place |= {"scale_x": 500 / 96, "scale_y": 375 / 96, "offset_x": 0.0, "offset_y": 0.0}
            found = {"label": 1, "prediction": 1, "probability": 0.9, "label_probability": 0.9, "label_rank": 0}
            sink.add(row | {"status": SampleStatus.OK} | place | found, self.maps[ordinal], {})
        return sink.commit({"total": 1.0}, attempt, "host", package_versions())


def tars_of(folder: Path, count: int, rows: int, listed: bool) -> str:
    """A pattern of so many names of one shard; ``listed``: ``_info.json`` says how many samples each holds."""
    shards = folder / "shards"
    names = [f"train-{number:06d}.tar" for number in range(count)]
    first = write_tar(shards / names[0], [each for each in samples(rows) if not each[0].endswith(".json")])
    for name in names[1:]:
        (shards / name).symlink_to(first)
    if listed:
        (shards / "_info.json").write_text(
            json.dumps({"splits": {"train": {"filenames": names, "shard_lengths": [rows] * count}}})
        )
    return str(shards / f"train-{{000000..{count - 1:06d}}}.tar")


def truth_of(folder: Path, count: int, good: int) -> Path:
    """Boxes of the rows that have maps."""
    lines = [f"train-{shard:06d}_{row:04d},50,40,300,200" for shard in range(count) for row in range(good)]
    path = folder / "boxes.csv"
    path.write_text("\n".join(["image_id,x0,y0,x1,y1", *lines]))
    return path


def do(stage: str, folder: Path) -> None:
    """One stage, in this process."""
    url = str(folder / "atlas")
    if stage == "plan":
        shards = ((folder / "pattern").read_text(),)
        plan(RunSpec(shards=shards, model=DEMO_MODEL, methods=(_METHOD,), targets=("label",)), url)
    elif stage in ("run", "resume"):
        inline_executor.Worker = Recorded  # type: ignore[assignment, misc]
        run(url, INLINE)
    elif stage == "status":
        from jobs.cli import main

        sys.argv = ["vitatlas", "status", url]
        with suppress(SystemExit):
            main()
    elif stage == "verify":
        assert verify(Atlas.open(url)).faults == []
    elif stage == "label":
        from pipeline.label import label

        label(
            Atlas.open(url),
            Policy(name="otsu", methods=(_METHOD,), threshold=Threshold(kind="otsu")),
            ["png", "coco"],
            f"{url}/labels/otsu",
        )
    else:
        score(Atlas.open(url), read_truth(folder / "boxes.csv"))


def resident(field: str) -> float:
    """Megabytes of memory of this process, now (``VmRSS``) or at most (``VmHWM``)."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measured(stage: str, folder: Path) -> None:
    """Do a stage and print what it took as JSON, on the last line."""
    os.fsync = lambda handle: None
    os.cpu_count = lambda: 1  # what is spread over shards is done here
    sys.modules["pipeline.run.parallel_map"].MIN_ITEMS_FOR_RAY = 10**9  # type: ignore[attr-defined]
    counts, before, begun = counted(), resident("VmRSS"), sum(os.times()[:4])
    do(stage, folder)
    print(json.dumps({"cpu": sum(os.times()[:4]) - begun, "mb": resident("VmHWM") - before, **counts}))


def main() -> None:
    """Print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1250, help="of each shard")
    parser.add_argument("--good", type=int, default=4, help="rows of each shard that have maps")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--scan", action="store_true", help="count samples by headers, not by _info.json")
    parser.add_argument("--folder", type=Path, help="keep everything here; what is there is gone on with")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ |= {"GOOD": str(given.good), "ROWS": str(given.rows)}
    if given.stage:
        measured(given.stage, given.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "pattern").exists():
            folder.mkdir(exist_ok=True)
            (folder / "pattern").write_text(tars_of(folder, given.shards, given.rows, not given.scan))
            truth_of(folder, given.shards, given.good)
        print(f"{given.shards:,} shards, {given.shards * given.rows:,} rows", flush=True)
        for stage in given.stages.split(","):
            sizes = ["--good", str(given.good), "--rows", str(given.rows)]
            command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder), *sizes]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            found = json.loads(done.stdout.strip().rpartition("\n")[2])
            cpu, grown = found.pop("cpu"), found.pop("mb")
            calls = ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))
            took = f"{cpu:8.1f} s of CPU, {1000 * cpu / given.shards:7.1f} s per 1,000 shards"
            print(f"{stage:7}{took}, {grown:6.0f} MB more; {calls}", flush=True)
        objects = [size for _, size in ObjectStore(str(folder / "atlas")).list_all()]
        print(f"{len(objects):,} objects, {sum(objects) / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
