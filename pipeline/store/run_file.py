"""``run.json`` of an atlas, the shards that were appended, the methods that were dropped, and its parts."""

from collections.abc import Iterator

from pipeline.store.object_store import ObjectStore
from schemas.commits import DroppedRecord
from schemas.errors import RunFailedError, UsageError
from schemas.layout import APPENDED, DROPPED, FORMAT, PARTS, RUN, extended_url
from schemas.run_record import AppendedRecord, FormatRecord, RunRecord

_MAX_NAMED = 8
"""Fields that a message names."""


def read_run(objects: ObjectStore) -> RunRecord:
    """Return the record of the run in a folder, with the shards that were appended and all its methods.

    Raises:
        FileNotFoundError, NotADirectoryError, UsageError, RunFailedError: see ``read_planned`` and ``read_appended``.
    """
    run = read_planned(objects)
    return run.followed_by(appended.shards) if (appended := read_appended(objects, run)) else run


def read_planned(objects: ObjectStore) -> RunRecord:
    """Return the record of the run in a folder, as it was planned.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        UsageError: it has another format.
        RunFailedError: it has been changed since it was planned; the message names the fields.
    """
    url, data = objects.url, objects.get(RUN)
    _check_format(data, url)  # first, since another format may have any other fields
    run = RunRecord.read(data, f"{url}/{RUN}")
    if changed := run.changed_fields():
        more = f" and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
        names = ", ".join(changed[:_MAX_NAMED]) + more
        raise RunFailedError(
            f"{url}/{RUN}: {names} {'has' if len(changed) == 1 else 'have'} been changed since the "
            "atlas was planned; restore the file, or plan another atlas"
        )
    fault = run.slot_fault()
    if not fault and run.first_target and not run.extends:
        fault = "first_target leaves out targets, which only a part may"
    if fault:
        raise RunFailedError(f"{url}/{RUN}: {fault}; restore the file, or plan another atlas")
    return run


def _check_format(data: bytes, url: str) -> None:
    """Raise UsageError if a ``run.json`` states another format, whatever else is in it."""
    version = FormatRecord.read(data, f"{url}/{RUN}").format
    if version is None:
        raise UsageError(f"{url}/{RUN}: states no format; it is damaged, restore it or plan again")
    if version != FORMAT:
        remedy = "update vit-atlas" if version > FORMAT else "compute it again with vitatlas run"
        raise UsageError(f"{url}: has format {version}, this version reads only format {FORMAT}; {remedy}")


def read_appended(objects: ObjectStore, run: RunRecord) -> AppendedRecord | None:
    """Return what was appended to an atlas; of a part what was appended to the atlas that it extends.

    Args:
        objects: of the atlas or part.
        run: its record.

    Raises:
        UsageError: it is damaged.
        RunFailedError: it is of another atlas, or has been changed since it was written.
    """
    url = extended_url(objects.url) if run.extends else objects.url
    where, restore = f"{url}/{APPENDED}", "restore the file"
    try:
        appended = AppendedRecord.read(ObjectStore(url).get(APPENDED), where)
    except FileNotFoundError:
        return None
    if appended.run_hash != (run.extends or run.run_hash):
        raise RunFailedError(f"{where}: is of another atlas, {appended.run_hash}; {restore}")
    if not appended.is_as_sealed:
        raise RunFailedError(f"{where}: has been changed since it was written; {restore}")
    if fault := run.followed_by(appended.shards).slot_fault():
        raise RunFailedError(f"{where}: {fault}; {restore}")
    return appended


def read_dropped(objects: ObjectStore) -> tuple[str, ...]:
    """Return the methods of the run in a folder that were dropped.

    Raises:
        UsageError: their record is damaged.
    """
    try:
        return DroppedRecord.read(objects.get(DROPPED), f"{objects.url}/{DROPPED}").methods
    except FileNotFoundError:
        return ()


def part_stores(objects: ObjectStore) -> Iterator[ObjectStore]:
    """Yield the folders of the parts of an atlas, finished or not, planned or not; sorted by name."""
    for name in objects.list(PARTS):
        yield ObjectStore(f"{objects.url}/{PARTS}/{name}")
