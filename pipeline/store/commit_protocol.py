"""Commit protocol of a shard: the only place that makes results visible, and that reads them as they were committed.

Objects are created, then the commit is created; both are atomic and only where there is none. What is there is never
overwritten or deleted before a commit: another writer may be about to name it. Where an object has other contents,
because the shard is processed again with ``--retry-failed`` or on hardware that computes other bits, the new contents
are staged under a name of their own. The commit is then replaced by a compare-and-swap, and the staged objects move to
their places. Until then readers find them by their checksums. So at every moment there is a commit if there was one,
and everything that it names can be read; a writer that was taken for dead can wake up at any moment and do no harm.
"""

from collections.abc import Iterable
from contextlib import suppress

from pipeline.store.lease import check_lease
from pipeline.store.object_store import ObjectStore
from schemas.base import sha256
from schemas.commits import CommitRecord, ObjectRecord
from schemas.errors import RunFailedError, ShardReplacedError, UsageError
from schemas.layout import STAGED, commit_object, staged_object, staged_prefix
from schemas.run_record import RunRecord


class ShardTransaction:
    """Writes the objects of one shard, then its commit.

    Raises:
        RunFailedError: the run has lost its lease.

    Args:
        objects: objects of the atlas.
        shard_index: index of the shard in the run.
        replaces: SHA-256 of the commit that is to be replaced; empty: there is none yet.
        committed: objects of that commit.
        lease: holder of the lease of the run; empty: none.
    """

    def __init__(
        self,
        objects: ObjectStore,
        shard_index: int,
        replaces: str = "",
        committed: Iterable[ObjectRecord] = (),
        lease: str = "",
    ) -> None:
        self.objects, self.shard_index, self.replaces, self.lease = objects, shard_index, replaces, lease
        self._committed = {record.path: record for record in committed}
        self._staged = False
        check_lease(objects, lease)

    def write(self, path: str, data: bytes) -> ObjectRecord:
        """Write one object; one that has these contents already is not written again.

        Args:
            path: its place.
            data: its contents.
        """
        record = ObjectRecord(path=path, size=len(data), sha256=sha256(data))
        if record == self._committed.get(path):
            return record
        if path in self._committed or not self.objects.create(path, data):
            self.objects.put(staged_object(self.shard_index, self.replaces, record.sha256), data)
            self._staged = True
        return record

    def publish(self, commit: CommitRecord) -> bool:
        """Make the objects visible, by the commit that names them.

        Args:
            commit: with the same ``replaces``.

        Returns:
            Whether this is the commit now; if not, another writer was faster, and its commit stays.

        Raises:
            RunFailedError: the run has lost its lease.
        """
        check_lease(self.objects, self.lease)
        name, data = commit_object(commit.shard), commit.to_bytes()
        if self.replaces:
            published = self.objects.replace(name, data, self.replaces)
        else:
            published = self.objects.create(name, data)
        if published and self._staged:
            settle(self.objects, commit.shard, self.shard_index)
        return published


def settle_all(objects: ObjectStore, run: RunRecord) -> None:
    """Settle every shard that has staged objects; see ``settle``.

    Args:
        objects: objects of the atlas.
        run: its record.
    """
    indices = {name.partition(".")[0] for name in objects.list(STAGED)}
    for index, shard in enumerate(run.shards):
        if str(index) in indices:
            settle(objects, shard.name, index)


def settle(objects: ObjectStore, shard: str, shard_index: int) -> None:
    """Move the staged objects that the commit of a shard names to their places, and remove those that none can name.

    Any process may do this at any moment, several at once, and stop at any step.

    Args:
        objects: objects of the atlas.
        shard: name of the shard.
        shard_index: its index in the run.
    """
    names = {f"{STAGED}/{name}" for name in objects.list(STAGED) if name.partition(".")[0] == str(shard_index)}
    data = _get(objects, commit_object(shard)) if names else None
    if data is None:
        return  # a writer may be about to create the commit
    commit = CommitRecord.read(data, commit_object(shard))
    for record in commit.objects:
        staged = staged_object(shard_index, commit.replaces, record.sha256)
        if staged in names and not _move(objects, record, staged, commit_object(shard), data):
            return
    unpublished = staged_prefix(shard_index, sha256(data))  # a writer may be about to replace this commit
    for name in names:
        if not name.startswith(unpublished):
            objects.delete(name)


def _move(objects: ObjectStore, record: ObjectRecord, staged: str, commit_name: str, commit: bytes) -> bool:
    """Copy a staged object to its place, as long as its commit is the current one; return whether it is there.

    What is there was read while the commit was current, so it is not what a later commit names, and it is replaced only
    if it still is the same.
    """
    while (current := _get(objects, record.path)) is None or sha256(current) != record.sha256:
        data = _get(objects, staged)
        if data is None or sha256(data) != record.sha256 or _get(objects, commit_name) != commit:
            return False
        if current is None:
            objects.create(record.path, data)
        else:
            objects.replace(record.path, data, sha256(current))
    return True


def read_committed(objects: ObjectStore, commit: CommitRecord, record: ObjectRecord) -> bytes:
    """Return an object as it was committed.

    Args:
        objects: objects of the atlas.
        commit: of the shard.
        record: one of its objects.

    Raises:
        ShardReplacedError: the commit has been replaced since it was read.
        RunFailedError: the object is missing or damaged.
    """
    staged = staged_object(commit.shard_index, commit.replaces, record.sha256)
    data = None
    for name in (record.path, staged, record.path):  # it may move between the first two
        data = _get(objects, name)
        if data is not None and sha256(data) == record.sha256:
            return data
    where = f"{objects.url}/{record.path}"
    if _is_replaced(objects, commit):
        raise ShardReplacedError(f"{where}: was replaced while it was read; run the command again")
    what = "is missing" if data is None else "is not as it was committed"
    raise RunFailedError(f"{where}: {what}; see vitatlas verify")


def _is_replaced(objects: ObjectStore, commit: CommitRecord) -> bool:
    data = _get(objects, commit_object(commit.shard))
    with suppress(UsageError):
        return data is not None and CommitRecord.read(data, commit.shard) != commit
    return False


def _get(objects: ObjectStore, name: str) -> bytes | None:
    try:
        return objects.get(name)
    except FileNotFoundError:
        return None
