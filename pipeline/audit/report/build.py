"""The whole report: pages, columns, classes, and shards of maps and pictures."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files

import numpy as np

from pipeline.audit.report.classes import iter_class_data, overall_statistics
from pipeline.audit.report.index import concat_columns, disagreement_threshold, index_script, method_scripts
from pipeline.audit.report.js_chunks import CHUNKS, ImageColumns, chunk_name, sample_images, write_chunks
from pipeline.audit.report.js_encoding import read_color_map, to_base64, to_script
from pipeline.audit.report.load_tables import AuditTables, read_audit
from pipeline.audit.report.page import render_page
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.utils.io import refuse_commands
from schemas.audit_tables import MAP_STATISTICS
from schemas.errors import UsageError
from schemas.layout import Flag
from schemas.run import TargetKind
from schemas.scores import is_control

REPORT = "report"
"""Folder of the report in that of its audit."""
_CLASSES = "data/classes"


def write_report(
    url: str,
    out: str,
    target: TargetKind = "label",
    names: Sequence[str] = (),
    pictures: bool = True,
    images: int = 50_000,
    seed: int = 0,
    address: str | None = None,
    allow_pipe: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Write the report of an audit, anew: equal atlases and audits give equal bytes, and nothing of another stays.

    Args:
        url: of the atlas.
        out: folder or URL of its audit, which gets ``report/index.html`` and what belongs to it.
        target: whose maps were audited. The gallery shows all targets of the atlas.
        names: of the classes, by index.
        pictures: show small copies of the pictures; without them nothing but maps leaves the data set.
        images: in the gallery, at most, drawn at random. All tables are of all images.
        seed: of the draw.
        address: of a Ray cluster, see ``parallel_map``.
        allow_pipe: pictures may be read from shell commands that the atlas names.
        say: told how many images are shown, and whether pictures are.

    Returns:
        URL of ``index.html``.

    Raises:
        UsageError: no audit of this atlas and target is there, no image has maps, or not all classes are named.
        CorruptShardError: pictures cannot be read, or are not those that the atlas has maps of.
    """
    atlas = Atlas.open(url)
    if names and len(names) != atlas.run.model.classes:
        raise UsageError(f"{url}: has {atlas.run.model.classes} classes, not the {len(names)} that are named")
    if pictures:
        refuse_commands((shard.url for shard in atlas.run.shards), allow_pipe)
    audited, parts = read_audit(atlas, out, target), sample_images(atlas, images, seed)
    if not parts:
        raise UsageError(f"{url}: has no sample with maps that a report could show")
    methods = tuple(name for name in atlas.methods if name in audited.about.methods)
    count = sum(len(part.ordinals) for part in parts)
    kind = "with small copies of the pictures" if pictures else "without pictures"
    say(f"report: {count} images of {len(parts)} shards, {kind}")
    objects = ObjectStore(f"{audited.objects.url}/{REPORT}")
    with Lease(objects):
        work = partial(write_chunks, atlas.objects.url, audited.objects.url, objects.url, methods, pictures)
        found = dict(parallel_map(work, parts, "report", address))
        columns = concat_columns([found[part.shard] for part in parts])
        written = {chunk_name(int(number)) for number in np.unique(columns.images["shard"])}
        told = _data(atlas, audited, methods, names, columns, pictures)
        told |= _assets() | {"index.html": render_page(atlas, audited, methods, names, columns, pictures)}
        for name, data in told.items():
            objects.put(name, data)
        _forget(objects, written | set(told))
        objects.sweep()
    return f"{objects.url}/index.html"


def _data(
    atlas: Atlas,
    audited: AuditTables,
    methods: Sequence[str],
    names: Sequence[str],
    columns: ImageColumns,
    pictures: bool,
) -> dict[str, bytes]:
    """Scripts of data that are no shards, by name."""
    model = atlas.run.model
    meta = {
        "target": audited.about.target,
        "targets": list(atlas.run.spec.targets),
        "methods": [{"name": name, "control": is_control(name)} for name in methods],
        "grid": list(model.grid),
        "frame": list(model.input_size),
        "classes": list(names) or [f"class {index}" for index in range(model.classes)],
        "numbers": list(MAP_STATISTICS),
        "overall": overall_statistics(audited, methods),
        "flags": [flag.name.lower().replace("_", " ") for flag in Flag],
        "disagreement": disagreement_threshold(columns.images["agreement"]),
        "pictures": pictures,
        "colours": to_base64(read_color_map()),
    }
    told = {"data/meta.js": to_script("meta", meta), "data/index.js": index_script(columns)}
    told |= dict(method_scripts(columns))
    for index, about in iter_class_data(audited, methods, model.grid):
        told[f"{_CLASSES}/{index}.js"] = to_script("class", index, about)
    return told


def _assets() -> dict[str, bytes]:
    """Style and scripts of the page, by name."""
    folder = files("pipeline.audit.report") / "assets"
    return {f"assets/{each.name}": each.read_bytes() for each in folder.iterdir() if each.is_file()}


def _forget(objects: ObjectStore, kept: set[str]) -> None:
    """Remove what a report of other images or classes left."""
    for folder in (CHUNKS, _CLASSES, "data/methods", "assets"):
        for name in objects.list(folder):
            if f"{folder}/{name}" not in kept:
                objects.delete(f"{folder}/{name}")
