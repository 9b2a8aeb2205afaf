"""Execution options: executor, actors, device, timeouts and cache. They do not change the results."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemas.errors import UsageError
from schemas.run import Decode

if TYPE_CHECKING:
    from pipeline.read import ShardCache

Executor = Literal["ray", "inline"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ExecutionOptions:
    """Execution options of a run.

    Attributes:
        executor: ``ray`` distributes shards over actors, ``inline`` processes them one by one in this process.
        address: of the Ray cluster: ``local`` starts one; ``auto`` or HOST:PORT joins one; None joins the one in the
            environment variable RAY_ADDRESS, else starts one.
        actors: their maximum number; None is one for each GPU, or for each core if the cluster has no GPU.
        device: ``cuda`` waits until GPUs are available; ``auto`` uses them if there are any.
        decode_processes: of each actor; None is a thread beside a CPU and four processes beside a GPU. If the GPU
            decodes, they decode the images that it cannot.
        timeout: maximum seconds for one shard, then another actor gets it; None is ten times the slowest so far, and
            at least ten minutes; six hours until the first is done.
        no_actor_timeout: seconds without any actor after which the run fails; ``--patience``.
        grace: seconds that shards in progress have to finish when the run is stopped.
        allow_pipe: read shards from shell commands that the atlas names.
        log: file that gets a line of JSON for each attempt at a shard; ``-`` is standard error.
        cache: local folder of each node for copies of remote shards; None reads them over the network.
        cache_gb: maximum size of all copies on a node.
    """

    executor: Executor = "ray"
    address: str | None = None
    actors: int | None = None
    device: Device = "auto"
    decode_processes: int | None = None
    timeout: float | None = None
    no_actor_timeout: float = 600.0
    grace: float = 20.0
    allow_pipe: bool = False
    log: str | None = None
    cache: str | None = None
    cache_gb: int = 200

    def resume_command(self, url: str, retry_failed: bool = False) -> str:
        """Return the command that resumes a run.

        Args:
            url: of the atlas.
            retry_failed: with ``--retry-failed``.
        """
        values = {
            "--executor": None if self.executor == "ray" else self.executor,
            "--address": self.address,
            "--device": None if self.device == "auto" else self.device,
            "--log": self.log,
            "--cache": self.cache,
        }
        if self.cache and self.cache_gb != ExecutionOptions.cache_gb:
            values["--cache-gb"] = str(self.cache_gb)
        arguments = [argument for flag, value in values.items() if value for argument in (flag, value)]
        switches = {"--allow-pipe": self.allow_pipe, "--retry-failed": retry_failed}
        arguments += [flag for flag, is_set in switches.items() if is_set]
        return shlex.join(["vitatlas", "run", url, *arguments])

    def make_cache(self) -> "ShardCache | None":
        """Return the cache of this node, if one is configured.

        Raises:
            UsageError: its folder cannot be created.
        """
        from pipeline.read import ShardCache  # the driver needs no image decoders

        return ShardCache(self.cache, self.cache_gb * 10**9) if self.cache else None


@dataclass(frozen=True)
class ComputeOptions:
    """Execution options of a product that is derived from a finished atlas.

    Attributes:
        address: of a Ray cluster, see ``parallel_map``. None: this machine for few shards, Ray for many.
        allow_pipe: read shards from shell commands that the atlas names.
        device: that networks run on.
    """

    address: str | None = None
    allow_pipe: bool = False
    device: Device = "auto"


INLINE = ExecutionOptions("inline")


def check_decode_device(decode: Decode, device: Device, has_gpu: bool) -> None:
    """Refuse to decode on a CPU what was planned to be decoded on a GPU, unless it is requested.

    Args:
        decode: as planned.
        device: as requested.
        has_gpu: there is one.

    Raises:
        UsageError: there is no GPU, and the device is ``auto``.
    """
    if decode == "gpu" and device == "auto" and not has_gpu:
        raise UsageError(
            "planned with --decode gpu, and there is no GPU here; use a machine with a GPU, or run it with --device "
            "cpu: torchvision then decodes on the CPU, to pixels that may differ from those of a GPU"
        )
