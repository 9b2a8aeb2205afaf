"""Lease of an atlas: only one run at a time writes to it.

The lease saves work, and lets a run that was taken for dead find out and stop; that no committed result is lost does
not depend on it (see ``commit_protocol``). It needs no synchronized clocks: the holder increments a counter every 5 s,
and another process takes the lease for abandoned if the counter does not change for 30 s.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from pipeline.store.object_store import ObjectStore
from schemas.base import sha256
from schemas.commits import LeaseRecord
from schemas.errors import AtlasError, RunFailedError, UsageError
from schemas.layout import LEASE

HEARTBEAT = 5.0
"""Seconds between two increments of the counter."""
TIMEOUT = 30.0
"""Seconds without an increment after which a lease is abandoned."""
_HELD: set[str] = set()
"""Holders in this process."""


class Lease:
    """The right to write to an atlas, as a context.

    It is taken, kept and released by compare-and-swap, so nothing of another's lease is ever overwritten.

    Attributes:
        holder: random identifier; workers compare it with the current lease before they write, see ``check_lease``.
        lost: another run has taken it over, because this one did not increment the counter, or it was removed.
        in_progress: shards that are being done; it is written with the next increment.

    Raises:
        RunFailedError: another run holds the lease, on entering the context; the message names it.
    """

    def __init__(self, objects: ObjectStore, log: Callable[[str], None] = lambda line: None) -> None:
        self.objects, self.log, self.lost = objects, log, False
        self.in_progress: tuple[str, ...] = ()
        self._record = LeaseRecord(
            holder=uuid.uuid4().hex,
            host=_host(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.holder, self._written = self._record.holder, self._record.to_bytes()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self.acquire()
        _HELD.add(self.holder)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=TIMEOUT)
        _HELD.discard(self.holder)
        # A store that fails here has failed before with an error; the lease left behind is abandoned.
        with suppress(OSError, AtlasError):
            current = self._read_current()
            if current and _holder(current) == self.holder:
                self.objects.replace(LEASE, None, sha256(current))

    def check(self) -> None:
        """Make sure, without asking the store, that the lease has not been lost.

        Raises:
            RunFailedError: it has.
        """
        if self.lost:
            raise _lost(self.objects)

    def acquire(self) -> None:
        """Take the lease, or take over an abandoned one.

        Raises:
            RunFailedError: another run holds it.
        """
        while not self.objects.create(LEASE, self._written):
            current = self._read_current()
            if current is None or not self._is_abandoned(current):
                continue
            if self.objects.replace(LEASE, self._written, sha256(current)):
                return

    def increment(self) -> None:
        """Increment the counter, or find out that the lease is lost."""
        record = self._record.model_copy(
            update={"heartbeat": self._record.heartbeat + 1, "in_progress": self.in_progress}
        )
        if self.objects.replace(LEASE, record.to_bytes(), sha256(self._written)):
            self._record, self._written = record, record.to_bytes()
            return
        current = self._read_current()
        if current is None or _holder(current) != self.holder:
            self.lost = True
        else:
            self._written = current  # an increment that seemed to have failed

    def _read_current(self) -> bytes | None:
        """Return the bytes of the current lease: it may be torn."""
        try:
            return self.objects.get(LEASE)
        except FileNotFoundError:
            return None

    def _is_abandoned(self, lease: bytes) -> bool:
        """Return whether the holder of a lease is dead or silent; False if the lease was deleted meanwhile.

        Raises:
            RunFailedError: the holder is alive.
        """
        record = _parse(lease)
        if record and _is_dead(record):
            return True
        holder = f"{record.host} (process {record.pid}, since {record.since})" if record else "another machine"
        self.log(f"a run on {holder} may be writing to {self.objects.url}; waiting up to {TIMEOUT:.0f} s to find out")
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            time.sleep(HEARTBEAT / 5)
            current = self._read_current()
            if current is None:
                return False
            if current != lease:
                raise RunFailedError(
                    f"{self.objects.url}: a run on {holder} is writing to it; wait for its end, or stop it and resume"
                )
        return True

    def _keep(self) -> None:
        """Increment the counter until the context ends or the lease is lost."""
        while not self.lost and not self._stopped.wait(HEARTBEAT):
            # When the store is down, the writes of the run itself fail with an error; the next increment tries again.
            with suppress(OSError, AtlasError):
                self.increment()


def check_lease(objects: ObjectStore, holder: str) -> None:
    """Make sure that a run still holds the lease of an atlas.

    Args:
        objects: objects of the atlas.
        holder: of the lease; empty: there is no lease to check.

    Raises:
        RunFailedError: another run holds it, or none.
    """
    if not holder:
        return
    try:
        current = objects.get(LEASE)
    except FileNotFoundError:
        raise _lost(objects) from None
    if _holder(current) != holder:
        raise _lost(objects)


def _lost(objects: ObjectStore) -> RunFailedError:
    return RunFailedError(
        f"{objects.url}: another run has taken it over, as this one was silent for too long (or {LEASE} was removed); "
        "what this one has committed stays"
    )


def _parse(data: bytes) -> LeaseRecord | None:
    try:
        return LeaseRecord.read(data, LEASE)
    except UsageError:
        return None


def _holder(data: bytes) -> str | None:
    record = _parse(data)
    return record.holder if record else None


def _is_dead(record: LeaseRecord) -> bool:
    """Return whether a holder has ended; only processes of this machine can be checked."""
    if record.host != _host() or not os.path.isdir("/proc/self"):
        return False
    if record.pid == os.getpid():
        return record.holder not in _HELD
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, and alive
        return False
    try:
        with open(f"/proc/{record.pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] in ("Z", "X")  # ended, and not waited for by its parent
    except FileNotFoundError:  # it ended just now, or is hidden
        return False


def _host() -> str:
    """Return this machine, its boot and its PID namespace: process ids are only valid within these."""
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        with open("/proc/sys/kernel/random/boot_id") as stream:
            return f"{socket.gethostname()}/{stream.read().strip()[:8]}/{namespace}"
    except OSError:
        return socket.gethostname()
