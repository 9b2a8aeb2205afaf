"""What many tests share: small networks, shards, and one small atlas that was really computed."""

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import settings
from safetensors.torch import save_file
from support import DEMO_MODEL, FAMILIES, FAST, build_once, samples, small_vit, write_tar
from torch import nn

from jobs.cli import main
from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.explain.explainer import ClassIdsFn, Explainer
from pipeline.explain.map_batch import MapBatch
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import ModelSpec, RunSpec

settings.register_profile("soak", max_examples=1000, deadline=None)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of SciPy, which loads later, and of child processes
torch.set_num_threads(1)
os.cpu_count = lambda: 1  # a few small shards are done sooner than a process starts; see two_processes
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; tests' processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.fsync = lambda handle: None  # no test cuts the power; the tests of what is written to the disk count the calls


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while tests are collected, nor later among them: 40 % of the time of a collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter free what was frozen; libraries print what is left when it ends."""
    gc.unfreeze()


@pytest.fixture(params=FAMILIES, scope="session")
def family(request: pytest.FixtureRequest) -> nn.Module:
    """A network of each kind."""
    return small_vit(**FAMILIES[request.param])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A spec of a tiny registered timm model, with random weights in a checkpoint of ten classes."""
    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=10)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(model.state_dict(), path)
    return ModelSpec(name="test_vit", checkpoint=str(path))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Three shards of 5, 7 and 4 samples; a brace pattern."""
    first = 0
    for index, count in enumerate((5, 7, 4)):
        write_tar(tmp_path / "shards" / f"part-{index}.tar", samples(count, first))
        first += count
    return str(tmp_path / "shards" / "part-{0..2}.tar")


@pytest.fixture
def spec(shards: str, checkpoint: ModelSpec) -> RunSpec:
    """A run over those shards."""
    return RunSpec(shards=(shards,), model=checkpoint, methods=FAST, batch_size=4)


@pytest.fixture
def finished(spec: RunSpec, tmp_path: Path) -> Path:
    """The atlas of that run, made in this process without disturbance."""
    out = tmp_path / "undisturbed"
    plan(spec, str(out))
    run(str(out), INLINE)
    return out


@pytest.fixture
def computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do the same shards over and over, and are about what is written: the same batch, the same maps."""
    known: dict[tuple[object, ...], MapBatch] = {}
    compute = Explainer.maps

    def maps(self: Explainer, images: torch.Tensor, targets: ClassIdsFn, keys: Sequence[str]) -> MapBatch:
        batch = (self.methods, self.first_target, tuple(keys), images.numpy().tobytes())
        if batch not in known:
            known[batch] = compute(self, images, targets, keys)
        return known[batch]

    monkeypatch.setattr(Explainer, "maps", maps)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    """A demo world of two shards with 24 scenes each, not to be changed."""

    def dataset(folder: Path) -> SyntheticDataset:
        return SyntheticDataset(folder, num_shards=2, scenes=24)

    return dataset(build_once(tmp_path_factory, "world", lambda folder: write_dataset(dataset(folder))))


@pytest.fixture(scope="session")
def atlas(world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """The atlas of that world, computed without Ray; each worker of pytest-xdist has a copy."""

    def compute(folder: Path) -> None:
        methods = ("attention", "legrad", "reciprocam:kernel=single", "center", "uniform")
        plan(RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=methods), str(folder / "atlas"))
        run(str(folder / "atlas"), INLINE)

    built = build_once(tmp_path_factory, "atlas", compute) / "atlas"
    return Atlas.open(str(shutil.copytree(built, tmp_path_factory.mktemp("atlas") / "atlas")))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Real Ray with two CPUs, for all tests that ask for it."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def without_plots() -> Iterator[None]:
    """Draw no scores, rankings and trainings, which takes up to a second each; tests that look at plots draw them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.score.localization_table.plot_scores", lambda *_: (b"PNG", b"PDF"))
        patched.setattr("pipeline.rank.plot.plot_ranking", lambda _: b"PNG")
        patched.setattr("pipeline.train.trainer.plot_curves", lambda *_: b"PNG")
        yield


@pytest.fixture(scope="session", autouse=True)
def without_terminal() -> Iterator[None]:
    """Print as if standard output were a file, whatever terminal runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
            patched.delenv(name, raising=False)
        yield


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work on several shards goes to two processes."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
def vitatlas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vitatlas", *map(str, arguments)])
        monkeypatch.setattr("jobs.cli.bound_exit", lambda code: None)  # this process goes on
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        return int(stopped.value.code or 0), output.out, output.err

    return call
