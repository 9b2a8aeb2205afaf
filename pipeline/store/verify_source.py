"""Comparison of the files of shards with those that the maps were computed from, without their contents."""

from pipeline.read import CorruptTarError, describe_source, read_listing
from schemas.shard_record import SourceRecord


def find_source_fault(url: str, source: SourceRecord) -> str | None:
    """Return what is wrong with the file of a shard; None if nothing is, as far as is known without its contents.

    Headers are read of a local file, and where the store has no ETag; unless the tar is compressed.

    Args:
        url: of the shard.
        source: the file that was read.

    Raises:
        OSError: it cannot be reached.
    """
    if url.startswith("pipe:"):
        return None
    try:
        now = describe_source(url)
    except CorruptTarError as error:
        raise OSError(f"{error}") from None
    if ("://" not in url or None in (source.fingerprint, now.fingerprint)) and not source.changes(now):
        now = now.model_copy(update={"listing": read_listing(url)})
    if changes := source.changes(now):
        return f"{url} is not the file that the maps were computed from: {', '.join(changes)}; restore it"
    return None
