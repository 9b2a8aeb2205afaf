"""Manifest of a published folder: SHA-256 of every object and a Merkle root, to verify the folder from its files."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

from pipeline.store import Lease, ObjectStore
from schemas.audit_records import MANIFEST, ManifestRecord
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import UsageError
from schemas.layout import AUDIT, LEASE, RUN

_EXCLUDED = (MANIFEST, LEASE)
"""Objects that are not in the manifest of their folder."""


def write_manifest(url: str) -> ManifestRecord:
    """Write the manifest of a folder, and overwrite an earlier one. No other process may write to the folder meanwhile.

    Args:
        url: local path or fsspec URL of an audit, an atlas with all derived products in it, or any other folder.

    Raises:
        UsageError: the folder is empty.
        RunFailedError: a run is writing to it.
    """
    objects = ObjectStore(url)
    if not any(objects.list_all()):
        raise UsageError(f"{url}: holds nothing to publish; name the folder of an atlas or of an audit")
    with Lease(objects):
        objects.remove_temp_files()
        names = [name for name, _ in objects.list_all() if name not in _EXCLUDED]
        entries = tuple(
            ObjectRecord(path=name, size=len(data), sha256=sha256(data))
            for name, data in zip(names, objects.read(names), strict=True)
        )
        manifest = ManifestRecord(root=merkle_root(entries), objects=entries)
        objects.put(MANIFEST, manifest.to_bytes())
    return manifest


def read_root(url: str) -> str:
    """Return the root in the manifest of a folder.

    Raises:
        UsageError: there is no manifest, or it is damaged.
    """
    return ManifestRecord.read(_manifest(ObjectStore(url)), MANIFEST).root


def _manifest(objects: ObjectStore) -> bytes:
    try:
        return objects.get(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        fix = f"name one of its audits, such as {AUDIT}/label" if objects.exists(RUN) else "name the folder of an audit"
        raise UsageError(f"{objects.url}: has no {MANIFEST}, so it was not published; {fix}") from None


def verify_manifest(
    url: str, root: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Compare every object of a folder with its manifest.

    Args:
        url: local path or fsspec URL of the folder.
        root: root that the publisher stated elsewhere, in a paper or on a page. Without it the manifest is trusted, and
            anybody who can write to the folder could have replaced it.
        progress: called with the number of verified objects and of all objects.

    Returns:
        A sentence for each object that differs, is missing, or is not in the manifest; it begins with the path.

    Raises:
        UsageError: there is no manifest.
    """
    objects = ObjectStore(url)
    data = _manifest(objects)
    try:
        manifest = ManifestRecord.read(data, MANIFEST)
    except UsageError as error:
        return [f"{error}"]
    if manifest.to_bytes() != data or manifest.root != merkle_root(manifest.objects):
        return [f"{MANIFEST}: has been changed since it was written, so nothing can be verified with it"]
    if root is not None and manifest.root != root:
        return [f"{MANIFEST}: its root is {manifest.root}, not {root}"]
    return list(_differences(objects, manifest, progress))


def _differences(objects: ObjectStore, manifest: ManifestRecord, progress: Callable[[int, int], None]) -> Iterator[str]:
    sizes = {name: size for name, size in objects.list_all() if name != MANIFEST}
    complete = []
    for entry in manifest.objects:
        size = sizes.pop(entry.path, None)
        if size is None:
            yield f"{entry.path}: is missing"
        elif size != entry.size:
            yield f"{entry.path}: has {size} bytes, but {entry.size} were published"
        else:
            complete.append(entry)
    for name in sizes:
        yield f"{name}: was not published"
    contents = objects.read([entry.path for entry in complete])
    for done, (entry, data) in enumerate(zip(complete, contents, strict=True), 1):
        if sha256(data) != entry.sha256:
            yield f"{entry.path}: its contents have changed since they were published"
        progress(done, len(complete))


def merkle_root(entries: Sequence[ObjectRecord]) -> str:
    """Return the root of the Merkle tree of RFC 6962 (section 2.1) over objects in their order, as ``sha256:…``.

    A leaf is ``<sha256> <bytes> <path>``. The hashes beside the path from a leaf to the root prove that a single object
    belongs to the folder, without the other objects.
    """
    return f"sha256:{_merkle_tree([f'{entry.sha256} {entry.size} {entry.path}'.encode() for entry in entries]).hex()}"


def _merkle_tree(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:  # leaves and nodes have different prefixes, so that neither can be taken for the other
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _merkle_tree(leaves[:half]) + _merkle_tree(leaves[half:])).digest()
