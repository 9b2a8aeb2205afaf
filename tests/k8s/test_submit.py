"""The manifest's job for real: Ray started as the manifest starts it, its token on, its command submitted."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from k8s.kustomize import render

from k8s import checks
from pipeline.store import Atlas
from schemas.run import ModelSpec

pytestmark = pytest.mark.soak


pytest.importorskip("aiohttp_cors", reason="Ray serves jobs with the packages of ray[default] only")

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
UP, JOB = 60, 90
"""Seconds that a head has to come up, and a job to end."""


@dataclass
class Cluster:
    """A head and a worker of the base's manifest in a folder, which stands for the root of their containers."""

    folder: Path
    dashboard: int
    environment: dict[str, str]
    token: str

    def submit(self, entrypoint: str) -> tuple[int, str, int]:
        """Exit code and output of ``ray job submit``, called as KubeRay calls it, and the exit code of the job."""
        name = f"job-{time.monotonic_ns()}"
        line = f"{shlex.join(RAY)} job submit --address {self._url} --submission-id {name} -- {entrypoint}"
        done = subprocess.run(
            ["bash", "-c", line], env=self.environment, capture_output=True, text=True, timeout=JOB, check=False
        )
        return done.returncode, done.stdout + done.stderr, json.loads(self.get(f"/api/jobs/{name}"))["driver_exit_code"]

    def get(self, path: str, known: bool = True) -> str:
        """What the dashboard answers, with the token or without."""
        headers = {"Authorization": f"Bearer {self.token}"} if known else {}
        with urlopen(Request(self._url + path, headers=headers), timeout=10) as answer:
            return answer.read().decode()

    def within(self, text: str) -> str:
        """A command of the manifest with its places in the folder."""
        return text.replace("/data", f"{self.folder}/data").replace(checks.SPECS, f"{self.folder}/specs")

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    documents = render(checks.K8S / "base")
    spec = checks.job(documents)["spec"]["rayClusterSpec"]
    head, group = spec["headGroupSpec"], spec["workerGroupSpecs"][0]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)  # short, for Ray's sockets are in it
        for each in ("data", "specs", "tmp"):
            (folder / each).mkdir()
        token = os.urandom(16).hex()
        (folder / "token").write_text(token)
        environment = checks.environment(head["template"]["spec"]["containers"][0]) | {
            "RAY_AUTH_MODE": spec["authOptions"]["mode"],
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "PYTHONPATH": str(checks.ROOT),
        }
        for variable in checks.WRITTEN:
            environment[variable] = environment[variable].replace("/tmp", str(folder / "tmp"), 1)
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        gcs, dashboard, client = _free(3)
        at = {"port": gcs, "dashboard-port": dashboard, "ray-client-server-port": client}
        stack.enter_context(
            _started(environment, ["--head", "--dashboard-host=127.0.0.1"], head["rayStartParams"] | at)
        )
        running = Cluster(folder, dashboard, environment, token)
        _wait(running)
        # One CPU, where KubeRay takes the limit of the container.
        joins = {"address": f"127.0.0.1:{gcs}", "num-cpus": 1}
        stack.enter_context(_started(environment, [], group["rayStartParams"] | joins))
        yield running


@contextmanager
def _started(environment: dict[str, str], flags: list[str], parameters: dict[str, object]) -> Iterator[None]:
    """``ray start`` with ports that nobody has: others may run Ray here too. In the end nothing of it is left."""
    agent, metrics = _free(2)
    own = {"node-ip-address": "127.0.0.1", "dashboard-agent-listen-port": agent, "metrics-export-port": metrics}
    ports = {"min-worker-port": 0, "max-worker-port": 0}
    flags = flags + [f"--{name}={value}" for name, value in (parameters | own | ports).items()]
    with open(Path(environment["TMPDIR"]) / "start.log", "ab") as log:
        process = subprocess.Popen([*RAY, "start", *flags, "--block"], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        _end_all(environment["RAY_AUTH_TOKEN_PATH"])
        process.wait()


def _wait(running: Cluster) -> None:
    end = time.monotonic() + UP
    while time.monotonic() < end:
        with suppress(OSError):
            running.get("/api/version")
            return
        time.sleep(0.5)
    raise AssertionError((running.folder / "tmp" / "start.log").read_text())


def _free(count: int) -> list[int]:
    """Ports of this machine that are free at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _end_all(mark: str) -> None:
    """End what was started here, which has the path of our token in its environment, and nothing else."""
    end = time.monotonic() + UP
    while (found := _having(mark)) and time.monotonic() < end:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    assert not found


def _having(mark: str) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone, or of somebody else
            if mark.encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
    return found


def test_nobody_comes_in_without_the_token(cluster: Cluster) -> None:
    with pytest.raises(HTTPError, match="401"):
        cluster.get("/api/jobs/", known=False)
    assert json.loads(cluster.get("/api/jobs/")) is not None


def test_the_job_of_the_manifest_makes_an_atlas(cluster: Cluster, shards: str, checkpoint: ModelSpec) -> None:
    documents = render(checks.K8S / "base")
    spec, _ = checks.specs(documents, cluster.folder / "specs")
    content = yaml.safe_load(spec.read_text()) | {
        "shards": [shards],
        "model": checkpoint.model_dump(exclude_defaults=True),
    }
    spec.write_text(yaml.safe_dump(content))
    entrypoint = cluster.within(checks.job(documents)["spec"]["entrypoint"])
    submitted, output, code = cluster.submit(entrypoint)
    assert (submitted, code) == (0, 0), output
    atlas = Atlas.open(str(cluster.folder / "data" / "imagenet.atlas"))
    assert len(atlas.committed) == 3
    assert len(atlas.run.methods) == len(content["methods"])


def test_the_exit_code_of_a_job_that_fails_comes_through(cluster: Cluster, finished: Path) -> None:
    submitted, output, code = cluster.submit("vitatlas run --spec nowhere.yaml --out a")
    assert (submitted, code) == (1, 2)
    assert "nowhere.yaml" in output
    (finished / "commits" / "part-0.json").unlink()
    submitted, output, code = cluster.submit(f"vitatlas verify {finished} --recompute 0")
    assert (submitted, code) == (1, 75), output
