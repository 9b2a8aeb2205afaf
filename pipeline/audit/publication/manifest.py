"""Is a published folder, byte for byte, what was published? Told from its files alone."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

from pipeline.store import Lease, ObjectStore
from schemas.audit_records import MANIFEST, ManifestRecord
from schemas.base import sha256
from schemas.commits import ObjectRecord
from schemas.errors import UsageError
from schemas.layout import AUDIT, LEASE, RUN

_UNTOLD = (MANIFEST, LEASE)
"""Of a folder itself: what cannot be in its manifest."""


def write_manifest(url: str) -> ManifestRecord:
    """Write the manifest of a folder, over an earlier one. Nobody else may be writing to it.

    Args:
        url: a local path or any fsspec URL; an atlas, with all that was derived in it, or any other folder.

    Raises:
        UsageError: there is nothing in it.
        RunFailedError: a run is writing to it.
    """
    objects = ObjectStore(url)
    if not any(objects.walk()):
        raise UsageError(f"{url}: holds nothing that could be published; name the folder of an atlas or of an audit")
    with Lease(objects):
        objects.sweep()
        names = [name for name, _ in objects.walk() if name not in _UNTOLD]
        entries = tuple(
            ObjectRecord(path=name, size=len(data), sha256=sha256(data))
            for name, data in zip(names, objects.read(names), strict=True)
        )
        manifest = ManifestRecord(root=merkle_root(entries), objects=entries)
        objects.put(MANIFEST, manifest.to_bytes())
    return manifest


def read_root(url: str) -> str:
    """The root that the manifest of a folder states.

    Raises:
        UsageError: there is no manifest, or it is damaged.
    """
    return ManifestRecord.read(_manifest(ObjectStore(url)), MANIFEST).root


def _manifest(objects: ObjectStore) -> bytes:
    try:
        return objects.get(MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        mend = (
            f"name one of its audits, such as {AUDIT}/label" if objects.exists(RUN) else "name the folder of an audit"
        )
        raise UsageError(f"{objects.url}: has no {MANIFEST}, so it was not published; {mend}") from None


def verify_manifest(
    url: str, root: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Compare every object of a folder with its manifest.

    Args:
        root: that the publisher told elsewhere, in a paper or on a page. Without it the manifest is believed, so who
            can write to the folder can write another one.
        progress: called with objects checked and objects in all.

    Returns:
        A sentence for each object that differs, is missing, or is not in the manifest; each begins with its path.

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
        return [f"{MANIFEST}: has been changed since it was written, so nothing can be checked by it"]
    if root is not None and manifest.root != root:
        return [f"{MANIFEST}: its root is {manifest.root}, not {root}"]
    return list(_differences(objects, manifest, progress))


def _differences(objects: ObjectStore, manifest: ManifestRecord, progress: Callable[[int, int], None]) -> Iterator[str]:
    there = {name: size for name, size in objects.walk() if name != MANIFEST}
    whole = []
    for entry in manifest.objects:
        size = there.pop(entry.path, None)
        if size is None:
            yield f"{entry.path}: is missing"
        elif size != entry.size:
            yield f"{entry.path}: has {size} bytes, {entry.size} were published"
        else:
            whole.append(entry)
    for name in there:
        yield f"{name}: was not published"
    contents = objects.read([entry.path for entry in whole])
    for done, (entry, data) in enumerate(zip(whole, contents, strict=True), 1):
        if sha256(data) != entry.sha256:
            yield f"{entry.path}: its contents have changed since they were published"
        progress(done, len(whole))


def merkle_root(entries: Sequence[ObjectRecord]) -> str:
    """Root of the Merkle tree of RFC 6962 (section 2.1) over objects in their order, as ``sha256:…``.

    A leaf is ``<sha256> <bytes> <path>``. One object can be proven to be of a published folder by the hashes beside
    its way to the root, without the rest.
    """
    return f"sha256:{_tree([f'{each.sha256} {each.size} {each.path}'.encode() for each in entries]).hex()}"


def _tree(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:  # what a leaf begins with is not what a node begins with, so that none passes for the other
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _tree(leaves[:half]) + _tree(leaves[half:])).digest()
