"""Processes of this machine, and which of them this one has started."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def soon(happens: Callable[[], bool]) -> bool:
    """Whether it happens within a minute."""
    deadline = time.monotonic() + 60
    while not (happened := happens()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return happened  # not asked again: it may be over


def ended(pid: int) -> bool:
    """Whether it is gone, or nothing of it is left but its exit code, which nobody may have asked for."""
    return _stat(pid)[:1] in ([], ["Z"])


def alive_in_session(leader: int) -> list[int]:
    """Processes of a session that have not ended."""
    numbers = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if _stat(pid)[3:4] == [str(leader)] and not ended(pid)]


def _stat(pid: int) -> list[str]:
    """State, parent, group, session … of a process; nothing if there is none."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def actors() -> list[int]:
    """Those of Ray on nodes that this process has started; other tests may have a cluster beside."""
    found = processes()
    return [pid for pid, (_, command) in found.items() if command.startswith("ray::_ShardActor") and _ours(pid, found)]


def _ours(pid: int, found: dict[int, tuple[int, str]]) -> bool:
    while pid in found and pid != os.getpid():
        pid = found[pid][0]
    return pid == os.getpid()
