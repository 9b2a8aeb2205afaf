"""Executor that processes shards one after another in this process, without Ray."""

from collections.abc import Iterator, Sequence

from pipeline.run.dispatch import Dispatcher
from pipeline.run.events import Event, ShardCommitted, ShardsInProgress, failed_attempt
from pipeline.run.execution import ExecutionOptions
from pipeline.run.worker import Worker
from schemas.errors import AtlasError, CorruptShardError


def run_inline(
    url: str, shards: Sequence[int], options: ExecutionOptions, retry_failed: bool = False, lease: str = ""
) -> Iterator[Event]:
    """Process shards in order; those that fail for a transient reason are retried at the end.

    Args:
        url: of the atlas.
        shards: indices of the pending shards.
        options: device, decode processes and cache.
        retry_failed: in finished shards, process the samples without maps again.
        lease: holder of the lease of the run.
    """
    dispatcher = Dispatcher(shards, window=1)
    dispatcher.add_worker(0)
    unexpected = 0
    cache = options.make_cache()
    processes = options.decode_processes or 0
    with Worker(url, options.device, processes, retry_failed, cache=cache, lease=lease) as worker:
        while assignment := dispatcher.next():
            shard_index = assignment.shard_index
            yield ShardsInProgress((shard_index,))
            try:
                commit = worker.process(shard_index, assignment.attempt)
            except AtlasError as error:
                if not isinstance(error, CorruptShardError):
                    raise
                reason, final = f"{error}", True
            except OSError as error:
                reason, final = f"{error}", False
            except Exception as error:
                unexpected += 1
                if unexpected > dispatcher.max_failures:  # the cause is not this shard
                    raise
                reason, final = f"{type(error).__name__}: {error}", False
            else:
                unexpected = 0
                dispatcher.finish(0, shard_index)
                yield ShardCommitted(commit)
                continue
            dispatcher.fail(0, shard_index, reason, final)
            yield failed_attempt(shard_index, assignment.attempt, reason, dispatcher.quarantined)
