"""One run at a time writes to an atlas.

What two of them would write is the same, byte for byte, so the lease saves work, not correctness. It needs no
clock that two machines agree on: a holder counts up, and who finds a lease watches whether that goes on.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pipeline.store.object_store import ObjectStore
from schemas.commits import LeaseRecord
from schemas.errors import AtlasError, RunFailedError, UsageError
from schemas.layout import LEASE

HEARTBEAT = 5.0
"""Seconds between two signs of life."""
TIMEOUT = 30.0
"""Seconds without one after which a lease is no longer held."""
_HELD: set[str] = set()
"""Holders in this very process."""


class Lease:
    """The right to write to an atlas, as a context.

    Attributes:
        lost: another run has taken it, because this one was silent for too long.
        in_progress: shards that are being done; whoever reads the lease knows a few seconds later.

    Raises:
        RunFailedError: on entering, another run holds it; the message says which.
    """

    def __init__(self, objects: ObjectStore, say: Callable[[str], None] = lambda line: None) -> None:
        self.objects, self.say, self.lost = objects, say, False
        self.in_progress: tuple[str, ...] = ()
        self._mine = LeaseRecord(
            holder=uuid.uuid4().hex,
            host=_host(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Self:
        while not self.objects.create(LEASE, self._mine.to_bytes()):
            there = self._there()
            if there is not None and self._outlived(there):
                self.objects.delete(LEASE)
        _HELD.add(self._mine.holder)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=TIMEOUT)
        _HELD.discard(self._mine.holder)
        # A store that fails here has failed before, and said so; what stays behind lapses.
        with suppress(OSError, AtlasError):
            there = self._there()
            if there and _holder(there) == self._mine.holder:
                self.objects.delete(LEASE)

    def _there(self) -> bytes | None:
        """The lease that stands there, as it is: it may be torn, or be written just now."""
        try:
            return self.objects.get(LEASE)
        except FileNotFoundError:
            return None

    def _outlived(self, there: bytes) -> bool:
        """Whether the holder of a lease is dead or silent; False if the lease has gone meanwhile.

        Raises:
            RunFailedError: the holder is alive.
        """
        record = _read(there)
        if record and _dead(record):
            return True
        who = f"{record.host} (process {record.pid}, since {record.since})" if record else "another machine"
        self.say(f"a run on {who} may be writing to {self.objects.url}; waiting up to {TIMEOUT:.0f} s for a sign of it")
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            time.sleep(HEARTBEAT / 5)
            now = self._there()
            if now is None:
                return False
            if now != there:
                raise RunFailedError(
                    f"{self.objects.url}: a run on {who} is writing to it; wait for its end, or stop it and go on"
                )
        return True

    def _live(self) -> None:
        """Count up until the end."""
        heartbeat = 0
        while not self._over.wait(HEARTBEAT):
            heartbeat += 1
            # When the store is down, what the run itself writes says so; the next beat tries again.
            with suppress(OSError, AtlasError):
                there = self._there()
                if there and _holder(there) != self._mine.holder:
                    self.lost = True
                    return
                self.objects.put(
                    LEASE,
                    self._mine.model_copy(update={"heartbeat": heartbeat, "in_progress": self.in_progress}).to_bytes(),
                )


def _read(data: bytes) -> LeaseRecord | None:
    try:
        return LeaseRecord.read(data, LEASE)
    except UsageError:
        return None


def _holder(data: bytes) -> str | None:
    record = _read(data)
    return record.holder if record else None


def _dead(record: LeaseRecord) -> bool:
    """Whether a holder is known to have ended, which can only be said of this machine's processes."""
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
            return stream.read().rpartition(")")[2].split()[0] in ("Z", "X")  # ended, and nobody asked how
    except FileNotFoundError:  # it ended just now, or may not be looked at
        return False


def _host() -> str:
    """This machine since it was started, and where there is one the container: process numbers mean nothing outside."""
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        with open("/proc/sys/kernel/random/boot_id") as stream:
            return f"{socket.gethostname()}/{stream.read().strip()[:8]}/{space}"
    except OSError:
        return socket.gethostname()
