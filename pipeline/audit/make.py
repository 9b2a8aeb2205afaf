"""The whole audit of an atlas in one folder, which anybody can check."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from pipeline.audit.lineage import breaks, lineage
from pipeline.audit.manifest import publish
from pipeline.audit.shortcuts import shortcuts
from pipeline.audit.tables import tables
from pipeline.store import Lease, Objects
from pipeline.store.tables import packed
from schemas.audit import ManifestRecord
from schemas.layout import AUDIT
from schemas.run import Target


def audit(
    url: str,
    out: str | None = None,
    target: Target = "label",
    methods: Sequence[str] = (),
    truth: str | None = None,
    further: Sequence[str] = (),
    address: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ManifestRecord:
    """Audit an atlas. Of the tables, what is done already is not done again.

    Writes what ``tables`` does; ``shortcuts.parquet``, ``clusters.parquet`` and ``members.parquet``;
    ``lineage.parquet``; and last ``manifest.json``. Columns are in ``schemas.audit``.

    Args:
        url: of the atlas.
        out: folder or URL; None is ``audit/<target>`` in the atlas.
        target, methods, truth, address: see ``tables``.
        further: what was made of the atlas elsewhere, see ``lineage``.
        say: told where the chain from pictures to labels, scores and tables is broken, see ``breaks``.

    Returns:
        The manifest of the folder, for ``manifest.check``; its root is to be told elsewhere too.

    Raises:
        UsageError: see ``tables`` and ``lineage``.
    """
    out = out or f"{url.rstrip('/')}/{AUDIT}/{target}"
    objects = Objects(out)
    tables(url, out, target, methods, truth, address)
    for fault in breaks(url, further):
        say(fault)
    searched = shortcuts(url, target, methods, address)
    found: dict[str, pa.Table] = {
        "shortcuts": searched.classes,
        "clusters": searched.clusters,
        "members": searched.members,
        "lineage": lineage(url, further),
    }
    with Lease(objects):
        for name, table in found.items():
            objects.put(f"{name}.parquet", packed(table))
    return publish(out)
