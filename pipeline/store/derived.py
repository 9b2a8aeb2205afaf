"""What is made of an atlas shard by shard: its objects, then a commit for each shard. What is committed is not made again."""

from collections.abc import Container, Iterable
from typing import TypeVar

from pipeline.store.atlas import Atlas
from pipeline.store.object_store import ObjectStore
from schemas.base import Record, differences, sha256
from schemas.commits import CommitRecord, DerivedCommit
from schemas.errors import UsageError
from schemas.layout import COMMITS, RUN, commit_object

R = TypeVar("R", bound=Record)


def content_hash(commit: CommitRecord | DerivedCommit) -> str:
    """Hash of all that is derived from: the objects of one shard, whenever and wherever they were made."""
    return sha256("\n".join(f"{each.path} {each.sha256}" for each in commit.objects).encode())


def check_output_dir(objects: ObjectStore, name: str, about: R, free: Container[str] = ()) -> R | None:
    """Make sure that a folder is free, or holds the same.

    Args:
        name: of the object that says what it holds, and is written first.
        about: what is to be made in it.
        free: fields that may differ.

    Returns:
        What that object says; None in a free folder.

    Raises:
        UsageError: it holds something else, which is not written over.
    """
    other = f"{objects.url}: holds"
    mend = "name another --out, or remove it"
    if objects.exists(RUN):
        raise UsageError(f"{other} an atlas; {mend.partition(',')[0]}")
    if not objects.exists(name):
        if there := objects.list(COMMITS):
            raise UsageError(f"{other} something else, whose {COMMITS}/{there[0]} would be written over; {mend}")
        return None
    try:
        before = type(about).read(objects.get(name), name)
    except UsageError as error:
        raise UsageError(f"{other} something else ({error}); {mend}") from None
    found = differences(_without(before, free), _without(about, free))
    if found:
        raise UsageError(f"{other} something else ({found[0]}); {mend}")
    return before


def _without(record: Record, fields: Container[str]) -> dict[str, object]:
    return {name: value for name, value in record.model_dump(mode="json").items() if name not in fields}


def read_commit(objects: ObjectStore, shard: str) -> DerivedCommit | None:
    """What was made of a shard, from whatever and by whatever; None where nothing was."""
    try:
        return _part(shard, objects.get(commit_object(shard)))
    except FileNotFoundError:
        return None


def _part(shard: str, data: bytes) -> DerivedCommit | None:
    try:
        return DerivedCommit.read(data, commit_object(shard))
    except UsageError:  # torn, or of another version: as good as none
        return None


def load_completed(
    objects: ObjectStore, atlas: Atlas, settings_hash: str, parts: Iterable[str]
) -> dict[str, DerivedCommit]:
    """Records of the shards that need not be made again: with these settings, from the maps as they are, with these parts."""
    present = {name.removesuffix(".json") for name in objects.list(COMMITS)}
    shards, wanted = [shard for shard in atlas.shard_names if shard in present], set(parts)
    good = []
    # A few of either at a time: a commit names every object of its shard, and there may be very many.
    found = objects.read([commit_object(shard) for shard in shards])
    for data, above in zip(found, atlas.records(but=atlas.committed - present), strict=True):
        record = _part(above.shard, data)
        if record is None or (record.shard, record.parent, record.settings_hash) != (
            above.shard,
            content_hash(above),
            settings_hash,
        ):
            continue
        if wanted <= set(record.items):
            good.append(record)
    folders = {each.path.rpartition("/")[0] for record in good for each in record.objects}
    there = {f"{folder}/{name}" for folder in folders for name in objects.list(folder)}
    return {record.shard: record for record in good if all(each.path in there for each in record.objects)}


def remove_stale(objects: ObjectStore, atlas: Atlas, wanted: Container[str] | None = None) -> None:
    """Remove what was made of shards that are finished no more, or are not wanted; None wants all."""
    for name in objects.list(COMMITS):
        shard = name.removesuffix(".json")
        if shard not in atlas.committed or (wanted is not None and shard not in wanted):
            record = read_commit(objects, shard)
            for each in record.objects if record else ():
                objects.delete(each.path)
            objects.delete(commit_object(shard))
