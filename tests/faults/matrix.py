"""Processes of a run are killed, at random moments, until it is done; then its bytes are compared.

A cluster of real Ray nodes on this machine, real shards, real files; ``kill -9`` of whatever is drawn: an actor, a
process that decodes for one, a node's raylet, the driver.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from processes import actors, processes
from ray.cluster_utils import Cluster
from safetensors.torch import save_file
from support import same_bytes, samples, write_tar

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.verify import verify
from schemas.run import ModelSpec, RunSpec

KINDS = ("actor", "decoder", "raylet", "driver")
_NODES = 2
_PATIENCE = 300.0
"""Seconds that are waited for what ought to happen: ten times what it takes on a busy machine."""


@dataclass
class Report:
    """What was done to one run.

    Attributes:
        kills: what was killed, and how many shards were committed then.
        codes: that the command ended with, start after start; −9 where the driver was killed.
        says: its last line each time.
        attempts: of the shard that took most.
        seconds: from the first start to the end.
    """

    seed: int
    kills: list[tuple[str, int]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    attempts: int = 1
    seconds: float = 0.0


class Nodes:
    """A Ray cluster of a head without room for actors, and nodes with room for one each."""

    def __init__(self, count: int = _NODES) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._nodes: list[Any] = []
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def ids(self) -> list[str]:
        """Of the nodes but the head, as Ray's contexts name them."""
        return [node.node_id for node in self._nodes]

    def add(self, gpus: int = 0) -> None:
        """A node, with GPUs that Ray takes on trust."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, num_gpus=gpus, wait=False))

    def kill(self, which: int = 0) -> None:
        """Kill the raylet of a node."""
        node = self._nodes.pop(which)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Kill everything on the head."""
        for started in [each for every in self._cluster.head_node.all_processes.values() for each in every]:
            with suppress(ProcessLookupError):
                os.kill(started.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        while self._nodes:
            self.kill()  # asked to go, they would wait for a head that goes too
        self._cluster.shutdown()


@contextmanager
def nodes(count: int = _NODES) -> Iterator[Nodes]:
    cluster = Nodes(count)
    try:
        yield cluster
    finally:
        cluster.stop()


def undisturbed(spec: RunSpec, out: Path) -> Path:
    """The atlas that every disturbed run must end with."""
    plan(spec, str(out))
    run(str(out), INLINE)
    return out


def disturb(
    spec: RunSpec, out: Path, expected: Path, cluster: Nodes, seed: int, kinds: Sequence[str], pace: float = 1.5
) -> Report:
    """Run, kill once for each of ``kinds``, start again whatever ended early, and compare.

    Args:
        pace: seconds at most from when there is something to be killed until it is.

    Raises:
        AssertionError: the atlas is not the undisturbed one, or something of it is missing or left over.
    """
    report, chance, begun = Report(seed), random.Random(seed), time.monotonic()
    plan(spec, str(out))
    left = list(kinds)
    while True:
        driver = start(out, cluster)
        try:
            code = _until_it_ends(driver, left, chance, cluster, out, report, pace)
        finally:
            driver.kill()
            error = driver.communicate()[1]
        report.codes.append(code)
        report.says.append(error.strip().rpartition("\n")[2])
        if code == 0:
            break
        assert code in (-signal.SIGKILL, 1), error  # nobody asked it to stop
        assert len(report.codes) < 40, error
    same_bytes(expected, out)
    assert verify(Atlas.open(str(out))).faults == []
    report.attempts = max(commit.attempt for commit in Atlas.open(str(out)).records())
    report.seconds = time.monotonic() - begun
    return report


def start(
    out: Path, cluster: Nodes, *options: str, program: Sequence[str] = ("-m", "jobs.cli")
) -> "subprocess.Popen[str]":
    """The command; ``program`` is what Python runs as such."""
    usual = ["--address", cluster.address, "--decode-processes", "1", "--patience", "300"]
    command = [sys.executable, *program, "run", str(out), *usual, *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _until_it_ends(
    driver: "subprocess.Popen[str]",
    left: list[str],
    chance: random.Random,
    cluster: Nodes,
    out: Path,
    report: Report,
    pace: float,
) -> int:
    """Kill what is left to be killed, each some time after there is something of its kind."""
    targets: dict[str, Callable[[], list[int]]] = {
        "actor": actors,
        "decoder": _decoders,
        "raylet": actors,  # it has one
        "driver": lambda: [driver.pid],
    }
    while driver.poll() is None:
        if not left:
            return driver.wait(timeout=600)
        if found := targets[left[0]]():
            time.sleep(chance.uniform(0, pace))
            victim = chance.choice(found)
            if driver.poll() is not None:
                break
            if left[0] == "raylet":
                cluster.kill(chance.randrange(_NODES))
                time.sleep(chance.uniform(0, 3))
                cluster.add()
            elif left[0] == "driver" or victim in targets[left[0]]():
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            else:
                continue  # it ended by itself meanwhile
            report.kills.append((left.pop(0), len(Atlas.open(str(out)).committed)))
        time.sleep(0.05)
    return driver.wait(timeout=60)


def wait_until(happens: Callable[[], object], driver: "subprocess.Popen[str]") -> None:
    """Wait for something that a driver brings about. Where it does not come, the driver ends as well."""
    begun = time.monotonic()
    while not happens():
        if time.monotonic() - begun > _PATIENCE:
            driver.kill()
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.05)


def _decoders() -> list[int]:
    """Processes that a fork server of an actor has started, and the server itself."""
    found, working = processes(), set(actors())
    servers = {pid for pid, (parent, command) in found.items() if parent in working and "forkserver" in command}
    return [pid for pid, (parent, _) in found.items() if parent in servers] or sorted(servers)


def main() -> None:
    """``make soak``: many runs, and a line for each in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=26)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--out", type=Path, default=Path("faults.jsonl"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, nodes() as cluster, given.out.open("a") as file:
        spec = _world(Path(folder))
        expected = undisturbed(spec, Path(folder) / "undisturbed")
        kills = Counter[str]()
        for seed in range(given.first, given.first + given.runs):
            chance = random.Random(seed)
            kinds = [*KINDS, chance.choice(KINDS)]
            chance.shuffle(kinds)
            report = disturb(spec, Path(folder) / f"atlas-{seed}", expected, cluster, seed, kinds, pace=8)
            kills.update(kind for kind, _ in report.kills)
            print(json.dumps(asdict(report)), file=file, flush=True)
            print(f"run {seed}: equal after {report.seconds:.0f} s, {report.kills}, exit codes {report.codes}")
    print(f"{given.runs} runs, {kills.total()} kills: {dict(kills)}; every atlas is equal, byte for byte")


def _world(folder: Path) -> RunSpec:
    """Twelve shards that an actor needs about a second for, each."""
    torch.manual_seed(1)
    path = folder / "weights.safetensors"
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    for shard in range(12):
        write_tar(folder / "shards" / f"part-{shard:02d}.tar", samples(24, 24 * shard))
    model = ModelSpec(name="test_vit", checkpoint=str(path))
    methods = ("legrad", "reciprocam", "cp_lrp", "rise:masks=20", "random")
    return RunSpec(shards=(str(folder / "shards" / "*.tar"),), model=model, methods=methods, batch_size=4)


if __name__ == "__main__":
    main()
