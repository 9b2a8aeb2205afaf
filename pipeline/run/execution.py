"""Who does the work of a run, and how long it may take."""

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
    """The hands of a run. None of this changes what is computed.

    Attributes:
        executor: ``ray`` spreads shards over actors, ``inline`` does them one by one in this process.
        address: of the Ray cluster: ``local`` starts one; ``auto`` or HOST:PORT joins one; None joins what the
            environment names (RAY_ADDRESS), else starts one.
        actors: at most so many; None is one to a GPU, or to a core where the cluster has no GPU.
        device: ``cuda`` waits for GPUs that are not there yet; ``auto`` takes them where they are.
        decode_processes: of each actor; None is a thread beside a CPU and four processes beside a GPU. Where the GPU
            decodes, they have what it cannot.
        timeout: seconds that an actor may take over a shard before another gets it; None is ten times the
            slowest one so far, and at least ten minutes; six hours as long as none is done.
        patience: seconds without a single actor at work after which the run fails.
        grace: seconds that shards in work have to be finished when the run is told to stop.
        log: file that gets a line of JSON for each attempt at a shard; ``-`` is standard error.
        cache: folder of each node that remote shards are copied to and read from; None reads them over the network.
        cache_gb: of all copies on a node, at most.
        allow_pipe: shards may be read from the shell commands that the atlas names.
    """

    executor: Executor = "ray"
    address: str | None = None
    actors: int | None = None
    device: Device = "auto"
    decode_processes: int | None = None
    timeout: float | None = None
    patience: float = 600.0
    grace: float = 20.0
    allow_pipe: bool = False
    log: str | None = None
    cache: str | None = None
    cache_gb: int = 200

    def command(self, url: str, retry_failed: bool = False) -> str:
        """The command that goes on with a run."""
        given = {
            "--executor": None if self.executor == "ray" else self.executor,
            "--address": self.address,
            "--device": None if self.device == "auto" else self.device,
            "--log": self.log,
            "--cache": self.cache,
        }
        if self.cache and self.cache_gb != ExecutionOptions.cache_gb:
            given["--cache-gb"] = str(self.cache_gb)
        flags = [part for flag, value in given.items() if value for part in (flag, value)]
        switches = {"--allow-pipe": self.allow_pipe, "--retry-failed": retry_failed}
        flags += [flag for flag, said in switches.items() if said]
        return shlex.join(["vitatlas", "run", url, *flags])

    def make_cache(self) -> "ShardCache | None":
        """Of remote shards, on the node that asks. Raises: see ``ShardCache``."""
        from pipeline.read import ShardCache  # decoders are not needed where actors are only directed

        return ShardCache(self.cache, self.cache_gb * 10**9) if self.cache else None


@dataclass(frozen=True)
class ComputeOptions:
    """How a product is derived from a finished atlas. None of this changes what is computed.

    Attributes:
        address: of a Ray cluster, see ``parallel_map``. None: this machine for few shards, Ray for many.
        allow_pipe: shards may be read from the shell commands that the atlas names.
        device: that networks run on.
    """

    address: str | None = None
    allow_pipe: bool = False
    device: Device = "auto"


INLINE = ExecutionOptions("inline")


def check_decoding(decode: Decode, device: Device, gpu: bool) -> None:
    """Make sure that nobody decodes on a CPU what was to be decoded on a GPU, unless asked to.

    Args:
        gpu: whether there is one.

    Raises:
        UsageError: there is none, and the device was left open.
    """
    if decode == "gpu" and device == "auto" and not gpu:
        raise UsageError(
            "planned with --decode gpu, and there is no GPU here; go where there is one, or run it with --device cpu: "
            "torchvision then decodes on the CPU, to pixels that may differ from those of a GPU"
        )
