"""Verify what was derived from an atlas: labels, scores, metrics and audits, in the atlas or in another folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.audit.publication.verify_audit import verify_audit
from pipeline.label.label_atlas import ABOUT as LABELING
from pipeline.store import Atlas, MapReader, ObjectStore
from pipeline.store.verify_product import verify_product
from schemas.audit_records import MANIFEST, AuditSpec
from schemas.errors import UsageError
from schemas.layout import ABOUT, AUDIT, COMMITS, COMPARISON, LABELS, LEASE, PRODUCT, SCORES

_MARKS = (ABOUT, LABELING, LEASE, MANIFEST, PRODUCT)
"""Objects that only the folder of a product has."""


@dataclass
class ProductsResult:
    """Result of the verification of products.

    Attributes:
        objects: number of objects that were compared with their records.
        faults: one sentence per fault.
        folders: verified folders.
        unfinished: those of them whose last command did not come to its end.
        partial: how many shards those of them have that have fewer than the atlas now, by folder.
    """

    objects: int = 0
    faults: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    partial: dict[str, int] = field(default_factory=dict)


def verify_products(atlas: Atlas, progress: Callable[[int, int], None] = lambda done, total: None) -> ProductsResult:
    """Verify every product in an atlas.

    Args:
        atlas: the atlas.
        progress: called with the number of verified products and of all.
    """
    result, objects = ProductsResult(), atlas.objects
    names = [name for name, _ in objects.list_all() if name.partition("/")[0] in (LABELS, SCORES, AUDIT)]
    folders = _outermost(set(filter(None, map(_marked_folder, names))))
    for done, folder in enumerate(folders):
        progress(done, len(folders))
        _verify_folder(ObjectStore(f"{objects.url}/{folder}"), atlas, f"{folder}/", result)
    inside = tuple(f"{folder}/" for folder in folders)
    result.faults += [f"{name}: belongs to no product" for name in names if not name.startswith(inside)]
    return result


def verify_folder(
    url: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
    atlas: MapReader | None = None,
) -> ProductsResult:
    """Verify the product in a folder.

    Args:
        url: path or URL of the folder.
        progress: called with the number of verified shards and of all.
        atlas: what it was made from, one or several that are joined, to find out whether its maps have changed since;
            None: not known.

    Raises:
        UsageError: it holds no product; or it is an audit or a comparison, which no atlas is compared with.
    """
    result, objects = ProductsResult(), ObjectStore(url)
    if not is_product(objects):
        raise UsageError(
            f"{url}: is neither an atlas nor a product of one, such as labels, scores or an audit; name one"
        )
    if atlas is not None:
        for mark, kind in ((MANIFEST, "an audit"), (COMPARISON, "a comparison of several sources")):
            if objects.exists(mark):
                raise UsageError(f"{url}: is {kind}, which is verified from its files alone; name it without atlases")
        if not _is_made_from(objects, atlas):
            result.faults.append(
                f"{objects.url}: was made from other atlases than {atlas.url}, or with these under other names or in "
                "another order"
            )
    _verify_folder(objects, atlas, "", result, progress)
    return result


def _is_made_from(objects: ObjectStore, atlas: MapReader) -> bool:
    """Return whether the settings of a product name these atlases."""
    networks = {name: reader.run.run_hash for name, reader in atlas.networks.items()}
    record = next((name for name in (LABELING, ABOUT) if objects.exists(name)), None)
    try:
        settings = json.loads(objects.get(record)) if record else {}
        return (settings.get("run"), settings.get("networks", {})) == (atlas.run.run_hash, networks)
    except (ValueError, AttributeError):
        return False  # damaged


def is_product(objects: ObjectStore) -> bool:
    """Return whether a folder holds a product, finished or not."""
    return any(objects.exists(name) for name in _MARKS) or bool(objects.list(COMMITS))


def _marked_folder(name: str) -> str | None:
    """Return the folder of the product that an object marks; None for other objects."""
    path = PurePosixPath(name)
    if path.parent.name == COMMITS:
        return str(path.parent.parent)
    return str(path.parent) if path.name in _MARKS else None


def _outermost(folders: set[str]) -> list[str]:
    return sorted(
        folder for folder in folders if not any(f"{parent}" in folders for parent in PurePosixPath(folder).parents)
    )


def _verify_folder(
    objects: ObjectStore,
    atlas: MapReader | None,
    prefix: str,
    result: ProductsResult,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add the result of one folder: of an audit by its manifest, of any other product by its records."""
    result.folders.append(objects.url)
    if objects.exists(MANIFEST):
        result.objects += sum(1 for _ in objects.list_all())
        result.faults += [f"{prefix}{fault}" for fault in verify_audit(objects.url, progress=progress)]
        return
    product = verify_product(objects, atlas, progress)
    result.objects += product.objects
    result.faults += [f"{prefix}{fault}" for fault in product.faults]
    if atlas is not None and 0 < product.shards < len(atlas.committed):
        result.partial[objects.url] = product.shards
    if product.finished and not _is_audit(objects):
        result.faults += [f"{prefix}{name}: belongs to nothing that was written" for name in product.strays]
        return
    result.unfinished.append(objects.url)  # an audit is finished by its manifest
    for folder in sorted(name.removesuffix(f"/{PRODUCT}") for name in product.strays if name.endswith(f"/{PRODUCT}")):
        _verify_folder(ObjectStore(f"{objects.url}/{folder}"), atlas, f"{prefix}{folder}/", result)


def _is_audit(objects: ObjectStore) -> bool:
    try:
        AuditSpec.read(objects.get(ABOUT), ABOUT)
    except (FileNotFoundError, UsageError):
        return False
    return True
