"""A run that is killed once, with ``kill -9``, and started again. ``make soak`` kills everything, on Ray."""

import signal
import subprocess
import sys
from pathlib import Path

from support import same_bytes

from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.run import RunSpec

KILLED = """
import os, signal, sys
from pipeline.run import INLINE, run
from pipeline.store import ShardWriter

commit = ShardWriter.commit

def killed(self, *arguments):
    if self.shard_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self, *arguments)

ShardWriter.commit = killed
run(sys.argv[1], INLINE)
"""


def test_a_run_that_is_killed_resumes_to_the_same_bytes(finished: Path, spec: RunSpec, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    plan(spec, str(out))
    ended = subprocess.run([sys.executable, "-c", KILLED, out], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert list(Atlas.open(str(out)).commits) == ["part-0"]
    assert (out / "lease.json").exists()
    run(str(out), INLINE)
    same_bytes(finished, out)
