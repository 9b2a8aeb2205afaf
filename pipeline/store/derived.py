"""What is made of an atlas tar by tar: its objects, then a commit for each tar. What is committed is not made again."""

from collections.abc import Iterable

from pipeline.store.atlas import Atlas
from pipeline.store.objects import Objects
from schemas.errors import UsageError
from schemas.labels import PartRecord
from schemas.layout import commit_object
from schemas.record import sha256
from schemas.run import CommitRecord


def parent(commit: CommitRecord | PartRecord) -> str:
    """Hash of all that is derived from: the objects of one tar, whenever and wherever they were made."""
    return sha256("\n".join(f"{each.path} {each.sha256}" for each in commit.objects).encode())


def done(objects: Objects, atlas: Atlas, maker: str, parts: Iterable[str]) -> dict[str, PartRecord]:
    """Records of the tars that need not be made again: by this maker, from the maps as they are, with these parts."""
    present, records = set(objects.list("commits")), {}
    names = [tar for tar in atlas.commits if f"{tar}.json" in present]
    for tar, data in zip(names, objects.read([commit_object(tar) for tar in names]), strict=True):
        try:
            record = PartRecord.read(data, commit_object(tar))
        except UsageError:  # torn, or of another version: it is made again
            continue
        if (record.parent, record.maker) == (parent(atlas.commits[tar]), maker) and set(parts) <= set(record.parts):
            records[tar] = record
    return records
