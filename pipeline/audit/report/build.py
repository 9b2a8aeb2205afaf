"""Build the whole report: the page, its data, and its assets."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files

import numpy as np

from pipeline.audit.report.classes import iter_class_data, overall_statistics
from pipeline.audit.report.gallery_data import (
    CHUNKS,
    NO_MAP,
    ImageColumns,
    chunk_name,
    disagreement_threshold,
    index_script,
    method_scripts,
    sample_images,
    write_chunks,
)
from pipeline.audit.report.js_encoding import read_color_map, to_base64
from pipeline.audit.report.load_tables import AuditTables, read_audit
from pipeline.audit.report.page import render_page
from pipeline.run.execution import ComputeOptions
from pipeline.run.parallel_map import parallel_map
from pipeline.store import Lease, MapReader, ObjectStore
from pipeline.utils.io import refuse_commands
from pipeline.utils.json_script import to_script
from schemas.audit_tables import MAP_STATISTICS
from schemas.errors import UsageError
from schemas.layout import Flag
from schemas.scores import is_control

REPORT = "report"
"""Folder of the report in that of its audit."""
_CLASSES = "data/classes"


def write_report(
    atlas: MapReader,
    out: str,
    target: str = "label",
    names: Sequence[str] = (),
    thumbnails: bool = True,
    images: int = 50_000,
    seed: int = 0,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> str:
    """Write the report of an audit, and remove files of an earlier one. Equal inputs give equal bytes.

    Args:
        atlas: the atlas.
        out: folder or URL of its audit, which gets ``report/index.html`` and the files that belong to it.
        target: target kind of the audited maps. The gallery shows all target kinds of the atlas.
        names: names of the classes by class id; empty are those of the atlas.
        thumbnails: show small copies of the images. Without them only maps leave the dataset.
        images: largest number of images in the gallery, chosen at random. All tables are of all images.
        seed: random seed of the choice.
        options: where it is computed; may shell commands be run to read images.
        log: called with the number of images, and with or without thumbnails.

    Returns:
        URL of ``index.html``.

    Raises:
        UsageError: no audit of this atlas and target kind, no image with maps, or not all classes are named.
        CorruptShardError: images cannot be read, or are not those of the atlas.
    """
    url = atlas.url
    target, names = atlas.find_target(target), atlas.class_names(names)
    if thumbnails:
        refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    tables, selections = read_audit(atlas, out, target), sample_images(atlas, images, seed)
    if not selections:
        raise UsageError(f"{url}: has no sample with maps that a report could show")
    methods = tuple(name for name in atlas.methods if name in tables.about.methods)
    count = sum(len(selection.ordinals) for selection in selections)
    log(f"report: {count} images of {len(selections)} shards, {'with' if thumbnails else 'without'} thumbnails")
    objects = ObjectStore(f"{tables.objects.url}/{REPORT}")
    with Lease(objects):
        work = partial(write_chunks, atlas, tables.objects.url, objects.url, methods, thumbnails)
        columns_by_shard = dict(parallel_map(work, selections, "report", options.address))
        columns = ImageColumns.concat([columns_by_shard[selection.shard] for selection in selections])
        chunks = {chunk_name(int(number)) for number in np.unique(columns.images["chunk"])}
        contents = _data_scripts(atlas, tables, methods, names, columns, thumbnails)
        contents |= _assets() | {"index.html": render_page(atlas, tables, methods, names, columns, thumbnails)}
        for name, data in contents.items():
            objects.put(name, data)
        _remove_stale(objects, chunks | set(contents))
        objects.remove_temp_files()
    return f"{objects.url}/index.html"


def _data_scripts(
    atlas: MapReader,
    tables: AuditTables,
    methods: Sequence[str],
    names: Sequence[str],
    columns: ImageColumns,
    thumbnails: bool,
) -> dict[str, bytes]:
    """Return the scripts of data that are not chunks, by name."""
    model = atlas.run.model
    meta = {
        "target": tables.about.target,
        "targets": list(atlas.run.stored_targets),
        "targetInWords": atlas.run.target_in_words(tables.about.target),
        "methods": [{"name": name, "control": is_control(name)} for name in methods],
        "grid": list(model.grid),
        "inputSize": list(model.input_size),
        "classes": list(names) or [f"class {class_id}" for class_id in range(model.classes)],
        "statistics": list(MAP_STATISTICS),
        "overall": overall_statistics(tables, methods),
        "flags": [*(flag.name.lower().replace("_", " ") for flag in Flag), "no map"],
        "empty": [Flag.CONSTANT, Flag.NOT_FINITE, NO_MAP],
        "disagreement": disagreement_threshold(columns.images["agreement"]),
        "thumbnails": thumbnails,
        "colors": to_base64(read_color_map()),
    }
    contents = {"data/meta.js": to_script("meta", meta), "data/index.js": index_script(columns)}
    contents |= dict(method_scripts(columns))
    for class_id, data in iter_class_data(tables, methods, model.grid):
        contents[f"{_CLASSES}/{class_id}.js"] = to_script("class", class_id, data)
    return contents


def _assets() -> dict[str, bytes]:
    """Return the style sheets and scripts of the page, by name."""
    folder = files("pipeline.audit.report") / "assets"
    return {f"assets/{file.name}": file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _remove_stale(objects: ObjectStore, current: set[str]) -> None:
    """Remove files of a report of other images or classes."""
    for folder in (CHUNKS, _CLASSES, "data/methods", "assets"):
        for name in objects.list(folder):
            if f"{folder}/{name}" not in current:
                objects.delete(f"{folder}/{name}")
