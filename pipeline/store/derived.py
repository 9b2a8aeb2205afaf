"""Commits of derived products: what is made of an atlas shard by shard, such as labels, scores and audit tables."""

from collections.abc import Container
from typing import TypeVar

from pipeline.store.atlas import Atlas
from pipeline.store.object_store import ObjectStore
from schemas.base import Record, differences, sha256
from schemas.commits import CommitRecord, DerivedCommit
from schemas.errors import UsageError
from schemas.layout import COMMITS, RUN, commit_object

R = TypeVar("R", bound=Record)


def content_hash(commit: CommitRecord | DerivedCommit) -> str:
    """Return the hash of the objects of one shard, whenever and wherever they were made."""
    return sha256("\n".join(f"{record.path} {record.sha256}" for record in commit.objects).encode())


def check_output_dir(objects: ObjectStore, about_object: str, about: R, may_differ: Container[str] = ()) -> R | None:
    """Make sure that a folder is empty, or holds the same product.

    Args:
        objects: the folder.
        about_object: name of the object that holds the settings of the product; it is written first.
        about: settings of the product that will be written.
        may_differ: fields of ``about`` that may differ.

    Returns:
        The settings in the folder; None where there are none.

    Raises:
        UsageError: the folder holds an atlas or another product, which must not be overwritten.
    """
    fix = "name another --out, or remove it"
    if objects.exists(RUN):
        raise UsageError(f"{objects.url}: holds an atlas; name another --out")
    if not objects.exists(about_object):
        if commits := objects.list(COMMITS):
            raise UsageError(
                f"{objects.url}: holds something else, whose {COMMITS}/{commits[0]} would be overwritten; {fix}"
            )
        return None
    try:
        previous = type(about).read(objects.get(about_object), about_object)
    except UsageError as error:
        raise UsageError(f"{objects.url}: holds something else ({error}); {fix}") from None
    changes = differences(_without(previous, may_differ), _without(about, may_differ))
    if changes:
        raise UsageError(f"{objects.url}: holds something else ({changes[0]}); {fix}")
    return previous


def _without(record: Record, fields: Container[str]) -> dict[str, object]:
    return {name: value for name, value in record.model_dump(mode="json").items() if name not in fields}


def read_commit(objects: ObjectStore, shard: str) -> DerivedCommit | None:
    """Return the commit of a shard; None where there is none that can be read."""
    try:
        return _parse_commit(shard, objects.get(commit_object(shard)))
    except FileNotFoundError:
        return None


def _parse_commit(shard: str, data: bytes) -> DerivedCommit | None:
    try:
        return DerivedCommit.read(data, commit_object(shard))
    except UsageError:  # torn, or of another version: as good as none
        return None


def load_completed(objects: ObjectStore, atlas: Atlas, settings_hash: str) -> dict[str, DerivedCommit]:
    """Return the valid commits by shard: with these settings, from the present maps, and all objects exist.

    Args:
        objects: folder of the product.
        atlas: what it is derived from.
        settings_hash: hash of the settings of the product.
    """
    present = {name.removesuffix(".json") for name in objects.list(COMMITS)}
    shards = [shard for shard in atlas.shard_names if shard in present]
    valid = []
    # A few of either at a time: a commit names every object of its shard, and there may be very many.
    contents = objects.read([commit_object(shard) for shard in shards])
    for data, source in zip(contents, atlas.records(skip=atlas.committed - present), strict=True):
        commit = _parse_commit(source.shard, data)
        wanted = (source.shard, content_hash(source), settings_hash)
        if commit is not None and (commit.shard, commit.parent, commit.settings_hash) == wanted:
            valid.append(commit)
    folders = {record.path.rpartition("/")[0] for commit in valid for record in commit.objects}
    paths = {f"{folder}/{name}" for folder in folders for name in objects.list(folder)}
    return {commit.shard: commit for commit in valid if all(record.path in paths for record in commit.objects)}


def list_stale(objects: ObjectStore, shards: Container[str]) -> list[str]:
    """Return the committed shards of a product that are not among the wanted ones."""
    committed = [name.removesuffix(".json") for name in objects.list(COMMITS)]
    return [shard for shard in committed if shard not in shards]


def remove_shard(objects: ObjectStore, shard: str) -> None:
    """Remove the objects of a shard, then its commit."""
    commit = read_commit(objects, shard)
    for record in commit.objects if commit else ():
        objects.delete(record.path)
    objects.delete(commit_object(shard))
