"""Processes of this machine, and which of them this one has started."""

import os
from contextlib import suppress
from pathlib import Path


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
