"""A run that is killed once, with ``kill -9``, and started again. ``make soak`` kills everything, on Ray."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import same_bytes

from pipeline.run import INLINE, run
from pipeline.run.extend import extend
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


EXTENDED = KILLED.replace("run(sys.argv[1], INLINE)", 'extend(sys.argv[1], ["center"], options=INLINE)').replace(
    "from pipeline.store", "from pipeline.run.extend import extend\nfrom pipeline.store"
)


@pytest.mark.soak
def test_an_extend_that_is_killed_resumes_and_nothing_else_has_changed(finished: Path, tmp_path: Path) -> None:
    out, undisturbed = shutil.copytree(finished, tmp_path / "atlas"), shutil.copytree(finished, tmp_path / "other")
    ended = subprocess.run([sys.executable, "-c", EXTENDED, out], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (part,) = Atlas.open(str(out)).parts
    assert part.shard_names == ("part-0",)
    extend(str(undisturbed), ["center"], options=INLINE)
    assert extend(str(out), ["center"], options=INLINE).methods == Atlas.open(str(undisturbed)).methods
    folder = Path(part.objects.url).relative_to(out)
    same_bytes(undisturbed / folder, out / folder)
    shutil.rmtree(out / "parts")
    same_bytes(finished, out)
