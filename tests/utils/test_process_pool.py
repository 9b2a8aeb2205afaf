"""Nothing works on for a process that was killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

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


def ended(pid: int) -> bool:
    """Whether it is gone, or nothing of it is left but its exit code, which nobody may have asked for."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def soon(happens: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.05)
    return happens()


@pytest.mark.parametrize("code", [_DECODERS, _SPREAD], ids=["decoders", "spread"])
def test_children_end_when_their_parent_is_killed(code: str) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    program = f"if __name__ == '__main__':\n{code}\n__import__('time').sleep(3600)".replace("\n", "\n    ")
    command, with_path = [sys.executable, "-c", program], os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, env=with_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) >= 2
        assert not any(map(ended, children))
        parent.kill()
    assert soon(lambda: all(map(ended, children)))
