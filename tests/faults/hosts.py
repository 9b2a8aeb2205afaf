"""Hosts on this machine: each with an address, processes and temporary files of its own, behind one switch.

Network namespaces of Linux. A link that is set down is a cable that is pulled: nothing dies, and nothing is told.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RAY = (str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats")
_OWN = "/tmp/ray"
_PORT = 6379
_SECONDS = {"initial_delay": 1, "period": 1, "timeout": 3}
"""Ray's patience with a host that says nothing, which is half a minute otherwise; three times, and it is dead."""


def lacking() -> str | None:
    """Why there can be no such hosts here."""
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return tried.stderr.strip() or "no namespaces here" if tried.returncode else None


class Hosts:
    """A Ray cluster of hosts, of which the first is the head, without room for actors.

    Args:
        folder: for their files and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._switch = folder, f"atlas-{os.getpid()}"
        self._running: list[subprocess.Popen[bytes]] = []
        (folder / "token").write_text(os.urandom(16).hex())
        patience = {f"RAY_health_check_{name}_ms": str(1000 * each) for name, each in _SECONDS.items()}
        self.environment = os.environ | patience | {"RAY_health_check_failure_threshold": "3"}
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        self._add("--head", f"--port={_PORT}", "--num-cpus=0", "--include-dashboard=false")

    @property
    def address(self) -> str:
        return f"{_address(0)}:{_PORT}"

    def add(self) -> str:
        """A host with one GPU that Ray takes on trust. Returns its IP address."""
        return self._add(f"--address={self.address}", "--num-cpus=1", "--num-gpus=1")

    def _add(self, *options: str) -> str:
        number = len(self._running)
        space, own = self._space(number), self.folder / f"host-{number}"
        own.mkdir()
        Path(_OWN).mkdir(exist_ok=True)
        _ip("netns", "add", space)
        pair = ("type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", self._switch, "link", "add", f"port{number}", *pair)
        _ip("-n", self._switch, "link", "set", f"port{number}", "master", "switch", "up")
        _ip("-n", space, "addr", "add", f"{_address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", space, "link", "set", device, "up")
        apart = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        begin = ["sh", "-c", f'mount --bind "$0" {_OWN} && exec "$@"', str(own)]
        command = [*apart, *begin, *RAY, f"--node-ip-address={_address(number)}", *options]
        with (self.folder / f"host-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, *command], env=self.environment, stdout=log, stderr=log
            )
        self._running.append(process)
        return _address(number)

    def wait(self) -> None:
        """Until Ray says of each host that it runs."""
        for number, process in enumerate(self._running):
            log = self.folder / f"host-{number}.log"
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)

    def on_head(self, command: Sequence[str]) -> list[str]:
        """A command as it runs on the head."""
        (inner,) = Path(f"/proc/{self._running[0].pid}/task/{self._running[0].pid}/children").read_text().split()
        return ["nsenter", "--target", inner, "--mount", "--net", "--pid", *command]

    def pull_cable(self, address: str) -> None:
        """Cut a host off, which goes on working."""
        _ip("-n", self._switch, "link", "set", f"port{_number(address)}", "down")

    def switch_off(self, address: str) -> None:
        """End all processes of a host at once."""
        process = self._running[_number(address)]
        process.kill()  # with which all that it has started goes
        process.wait()

    def stop(self) -> None:
        for number in range(len(self._running)):
            self.switch_off(_address(number))
            _ip("netns", "delete", self._space(number))
        _ip("netns", "delete", self._switch)

    def _space(self, number: int) -> str:
        return f"{self._switch}-{number}"


def _address(number: int) -> str:
    return f"10.77.0.{number + 1}"


def _number(address: str) -> int:
    return int(address.rpartition(".")[2]) - 1


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
