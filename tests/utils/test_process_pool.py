"""No process outlives its pool, whatever it does and however its parent ends."""

import operator
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import pytest
from processes import ended, soon

from pipeline.utils import process_pool
from pipeline.utils.process_pool import ProcessPool

_DECODERS = r"""
from multiprocessing import active_children, forkserver
from read.frames import FRAME
from pipeline.read import DecoderPool
pool = DecoderPool(2)
for asked in [pool.submit(b"P5 1 1 255\n\0", FRAME) for _ in range(20)]:
    asked.result()
print(forkserver._forkserver._forkserver_pid, *[child.pid for child in active_children()], flush=True)
"""
_SPREAD = """
from time import sleep
from multiprocessing import active_children
from pipeline.run import parallel_map
parallel_map.os.cpu_count = lambda: 2
items = parallel_map.parallel_map(sleep, [0, 0, 3600, 3600], "sleep")
next(items), next(items)
print(*[child.pid for child in active_children()], flush=True)
"""


@pytest.mark.parametrize("code", [_DECODERS, _SPREAD], ids=["decoders", "spread"])
def test_children_end_when_their_parent_is_killed(code: str) -> None:
    path = os.pathsep.join(map(str, Path(__file__).parents[1:3]))
    program = f"if __name__ == '__main__':\n{code}\n__import__('time').sleep(3600)".replace("\n", "\n    ")
    command, with_path = [sys.executable, "-c", program], os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, env=with_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) >= 2
        assert not any(map(ended, children))
        parent.kill()
    assert soon(lambda: all(map(ended, children)))


_DEAF = """
import ctypes, os, signal, time

def deaf(how, folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(os.path.join(folder, str(os.getpid())), "w").close()
    if how == "call":
        os.read(os.pipe()[0], 1)
    elif how == "interpreter lock":
        ctypes.PyDLL(None).sleep(3600)
    elif how == "exit":
        import threading
        threading.Thread(target=time.sleep, args=(3600,)).start()
    return os.getpid()
"""
_COMMAND = """
import atexit, functools, signal, sys, time, types
import click
from jobs import cli
from pipeline.run import parallel_map
from deaf_work import deaf

at_exit = []

@click.command()
@click.argument("how")
@click.argument("folder")
def command(how, folder):
    for function, argument in at_exit:
        atexit.register(function, argument)
    parallel_map.os.cpu_count = lambda: 2
    work = functools.partial(deaf, folder=folder)
    try:
        for _ in parallel_map.parallel_map(work, ["exit", how, how], "stuck"):
            time.sleep(3600)
    finally:
        print("leaving", file=sys.stderr, flush=True)

cli.COMMANDS["stuck"] = "Never end."
sys.modules["jobs.stuck"] = types.SimpleNamespace(stuck_command=command)
"""


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which each process of ``deaf_work`` puts a file of its number."""
    (tmp_path / "deaf_work.py").write_text(_DEAF)
    (tmp_path / "pids").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))
    return tmp_path / "pids"


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


@contextmanager
def stuck(folder: Path, code: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the command until its two processes work."""
    program = f"if __name__ == '__main__':\n{_COMMAND}\n{code}\ncli.main()".replace("\n", "\n    ")
    command = [sys.executable, "-c", program, "stuck", "call", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        try:
            assert soon(lambda: len(pids(folder)) == 2)
            yield parent
        finally:
            parent.kill()


@pytest.mark.parametrize("how", ["call", "interpreter lock"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_whose_processes_hang(deaf: Path, how: str, number: int) -> None:
    with stuck(deaf, f"sys.argv[2] = {how!r}") as parent:
        parent.send_signal(number)
        _, said = parent.communicate(timeout=60)
    assert parent.returncode == 75
    assert said.endswith("vitatlas: stopped early; run the same command again to resume\n")
    assert soon(lambda: all(map(ended, pids(deaf))))


def test_a_second_signal_ends_a_command_whose_exit_hangs(deaf: Path) -> None:
    with stuck(deaf, "at_exit.append((time.sleep, 3600))") as parent:
        parent.terminate()
        assert parent.stderr is not None
        while "stopped early" not in parent.stderr.readline():
            assert parent.poll() is None
        parent.terminate()
        assert parent.wait(timeout=60) == 75
    assert soon(lambda: all(map(ended, pids(deaf))))


def test_an_exit_that_hangs_is_cut_off(deaf: Path) -> None:
    with stuck(deaf, "at_exit.append((time.sleep, 3600)); cli._EXIT_SECONDS = 0.5") as parent:
        parent.terminate()
        assert parent.wait(timeout=60) == 75
    assert soon(lambda: all(map(ended, pids(deaf))))


def test_an_exception_kills_the_processes(deaf: Path) -> None:
    from deaf_work import deaf as hang

    with pytest.raises(ZeroDivisionError), ProcessPool(2, "os") as pool:  # noqa: PT012
        calls = [pool.submit(hang, "call", str(deaf)) for _ in range(3)]
        assert soon(lambda: len(pids(deaf)) == 2)
        raise ZeroDivisionError
    assert all(map(ended, pids(deaf)))
    assert [call.cancelled() for call in calls] == [False, False, True]
    for call in calls[:2]:
        assert isinstance(call.exception(), BrokenProcessPool)


def test_a_process_that_does_not_end_after_its_work_is_killed(deaf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deaf_work import deaf as hang

    monkeypatch.setattr(process_pool, "EXIT_SECONDS", 0.2)
    with ProcessPool(1, "os") as pool:
        assert pool.submit(hang, "exit", str(deaf)).result() == pids(deaf)[0]
    assert soon(lambda: all(map(ended, pids(deaf))))


def test_a_death_breaks_only_its_own_call() -> None:
    with ProcessPool(1, "os") as pool:
        calls = [pool.submit(os._exit, 1), pool.submit(operator.add, 1, 2)]
        assert isinstance(calls[0].exception(), BrokenProcessPool)
        assert calls[1].result() == 3


def test_what_cannot_be_sent_is_an_error_of_its_call() -> None:
    with ProcessPool(1, "os") as pool:
        for broken in (pool.submit(lambda: 0), pool.submit(Lock)):
            with pytest.raises(Exception, match="pickle"):
                broken.result()
        assert pool.submit(operator.add, 1, 2).result() == 3


def test_a_closed_pool_takes_no_call() -> None:
    with ProcessPool(1, "os") as pool:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(os.getpid)
