"""One run at a time, and a dead one blocks nobody for long."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store import ObjectStore, lease
from pipeline.store.lease import Lease
from schemas.commits import LeaseRecord
from schemas.errors import RunFailedError
from schemas.layout import LEASE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lease, "TIMEOUT", 1.0)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "atlas"))


def held(objects: ObjectStore) -> LeaseRecord:
    return LeaseRecord.read(objects.get(LEASE), LEASE)


def test_a_second_run_is_refused_and_told_by_whom(objects: ObjectStore) -> None:
    with Lease(objects):
        holder = held(objects)
        with pytest.raises(
            RunFailedError, match=rf"a run on .* \(process {holder.pid}, since .*\) is writing to it; wait"
        ):
            Lease(objects).__enter__()
        assert held(objects).holder == holder.holder
    with Lease(objects):
        assert held(objects).holder != holder.holder
    assert not objects.exists(LEASE)


def test_a_silent_holder_on_another_machine_loses_it(objects: ObjectStore) -> None:
    stranger = LeaseRecord(holder="other", host="elsewhere", pid=1, since="2026-01-01T00:00:00+00:00")
    objects.put(LEASE, stranger.to_bytes())
    said: list[str] = []
    begun = time.monotonic()
    with Lease(objects, said.append):
        assert time.monotonic() - begun >= 1.0
        assert held(objects).holder != "other"
    assert "elsewhere (process 1, since 2026-01-01" in said[0]


def test_a_torn_lease_lapses(objects: ObjectStore) -> None:
    objects.put(LEASE, b"{")
    with Lease(objects):
        assert held(objects)


def test_a_dead_process_of_this_machine_is_not_waited_for(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "TIMEOUT", 600.0)
    code = (
        "import sys, os; from pipeline.store import ObjectStore; from pipeline.store.lease import Lease;"
        "Lease(ObjectStore(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, objects.url], check=False)
    assert killed.returncode == -9
    assert held(objects)
    begun = time.monotonic()
    with Lease(objects):
        assert time.monotonic() - begun < 5


def test_a_holder_that_was_taken_for_dead_knows_it(objects: ObjectStore) -> None:
    with Lease(objects) as mine:
        stranger = LeaseRecord(holder="other", host="elsewhere", pid=1, since="2026-01-01T00:00:00+00:00")
        objects.put(LEASE, stranger.to_bytes())
        deadline = time.monotonic() + 10
        while not mine.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert mine.lost
    assert held(objects).holder == "other"  # and takes nothing away from the other


@pytest.mark.soak
def test_of_many_at_once_one_gets_it(objects: ObjectStore) -> None:
    code = (
        "import sys, time; from pipeline.store import ObjectStore; from pipeline.store import lease;"
        "lease.HEARTBEAT, lease.TIMEOUT = 0.1, 5.0\n"
        "with lease.Lease(ObjectStore(sys.argv[1])): print('got', flush=True); time.sleep(8)"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, objects.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    outputs = [run.communicate()[0] for run in runs]
    assert sorted(outputs) == [b"", b"", b"got\n"]
