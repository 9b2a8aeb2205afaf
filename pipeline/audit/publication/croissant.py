"""Croissant description of an audit: JSON-LD that dataset catalogs and loaders read.

Croissant 1.1 and its vocabulary for responsible AI 1.0: https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from pipeline.audit.publication.dataset_card import (
    BIASES,
    LIMITS,
    MISUSES,
    PROTOCOL,
    PURPOSE,
    USES,
    default_dataset_name,
)
from pipeline.audit.publication.published_tables import PublishedTable, decoded_type, find_tables
from pipeline.store import MapReader, ObjectStore
from pipeline.utils.redaction import public_model_name
from schemas.audit_records import DEFAULT_PUBLICATION, MANIFEST, AuditSpec, PublicationRecord
from schemas.base import sha256
from schemas.layout import ABOUT, LEASE

CROISSANT_NAME = "croissant.json"
_EXCLUDED = (CROISSANT_NAME, MANIFEST, LEASE)
_MEDIA_TYPES = {
    ".parquet": "application/x-parquet",
    ".json": "application/json",
    ".md": "text/markdown",
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".h5": "application/x-hdf5",
    ".yaml": "application/yaml",
    ".npy": "application/octet-stream",
}
"""Media types by extension. Croissant has no readers for HDF5 and NumPy."""
_TERMS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet "
    "format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex "
    "repeated replace samplingRate separator source subField transform"
)
"""Terms of Croissant that have the same name in JSON."""
_CONTEXT: dict[str, Any] = {
    **{term: f"cr:{term}" for term in _TERMS.split()},
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The context of the specification, and PROV."""
_Node = dict[str, Any]


def build_croissant(atlas: MapReader, out: str, publication: PublicationRecord = DEFAULT_PUBLICATION) -> bytes:
    """Describe the folder of an audit, except for this description and the manifest, which are written last.

    Args:
        atlas: the atlas.
        out: folder or URL of the audit.
        publication: facts that only the publisher knows.

    Returns:
        JSON-LD: each table as a record set with its fields; single objects with their SHA-256, objects of shards as
        sets of files; sources and software. The date is that of the last map, so that equal audits give equal bytes.

    Raises:
        UsageError: there is no atlas, or the folder holds no audit.
    """
    objects = ObjectStore(out)
    about = AuditSpec.read(objects.get(ABOUT), ABOUT)
    tables = list(find_tables(objects))
    name = publication.name or default_dataset_name(atlas)
    date = max((record.finished for record in atlas.records()), default="")[:10]
    description = {
        "@context": dict(sorted(_CONTEXT.items())),
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name,
        "description": PURPOSE,
        "license": _license_url(publication.license),
        "url": publication.url or f"urn:{about.digest()}",
        "creator": {"@type": "sc:Organization", "name": publication.creator},
        "datePublished": date,
        "version": publication.version,
        "citeAs": f"{publication.creator} ({date[:4]}): {name}, version {publication.version}.",
        "keywords": ["explainable AI", "attribution maps", "vision transformer", "audit", *about.methods],
        "distribution": _distribution(objects, tables),
        "recordSet": [_record_set(table) for table in tables],
        "rai:machineAnnotationTools": [
            f"vit-atlas {atlas.run.versions['vit-atlas']}, method {method}" for method in about.methods
        ],
        "rai:dataAnnotationProtocol": [PROTOCOL],
        "rai:dataUseCases": list(USES),
        "rai:dataLimitations": [*LIMITS, *(f"Not for: {use}" for use in MISUSES)],
        "rai:dataBiases": list(BIASES),
        "prov:wasDerivedFrom": _sources(atlas, about),
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"audit of the {about.target} maps, protocol {about.protocol}",
            "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": "vit-atlas"},
        },
    }
    return (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode()


def _license_url(name: str) -> str:
    """Return the page of an SPDX licence; other text is returned unchanged."""
    return name if "://" in name or name == DEFAULT_PUBLICATION.license else f"https://spdx.org/licenses/{name}.html"


def _sources(atlas: MapReader, about: AuditSpec) -> list[_Node]:
    """Return the sources of the audit by their hashes."""
    network = public_model_name(atlas.run.model.name)
    labels = {
        f"urn:{about.run}": "attribution maps of the run with this hash",
        f"urn:{atlas.run.model.weights}": f"weights of {network}, SHA-256 over their tensors",
    }
    if about.truth is not None:
        labels[f"urn:{about.truth}"] = "boxes or masks of the objects, SHA-256"
    return [{"@id": name, "@type": "prov:Entity", "prov:label": label} for name, label in labels.items()]


def _distribution(objects: ObjectStore, tables: Sequence[PublishedTable]) -> list[_Node]:
    """Return all objects of the folder: tables, then other files in it, then those in its folders."""
    per_shard = [published for published in tables if published.table.per_shard]
    sets = [_file_set(_set_id(published.table.name), [published.table.files]) for published in per_shard]
    shard_names = {name for published in per_shard for name in published.names}
    table_names = [published.names[0] for published in tables if not published.table.per_shard]
    excluded = {*shard_names, *table_names, *_EXCLUDED}
    others = [name for name, _ in objects.list_all() if name not in excluded]
    single = [*table_names, *(name for name in others if "/" not in name)]
    files = [_file_object(name, data) for name, data in zip(single, objects.read(single), strict=True)]
    patterns: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in others:
        path = PurePosixPath(name)
        if "/" in name:
            patterns[path.parts[0], path.suffix].add(f"{path.parent}/*{path.suffix}")
    rest = [_file_set(_set_id(f"{top}{suffix}"), sorted(globs)) for (top, suffix), globs in sorted(patterns.items())]
    return [*files, *sets, *rest]


def _file_object(name: str, data: bytes) -> _Node:
    return {
        "@type": "cr:FileObject",
        "@id": quote(name),
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": _media_type([name]),
        "sha256": sha256(data).removeprefix("sha256:"),
    }


def _file_set(identity: str, globs: Sequence[str]) -> _Node:
    return {
        "@type": "cr:FileSet",
        "@id": identity,
        "name": identity,
        "encodingFormat": _media_type(globs),
        "includes": list(globs),
    }


def _set_id(name: str) -> str:
    """Return the id of a set of files; the names themselves are ids of record sets."""
    return f"{quote(name)}-files"


def _media_type(names: Iterable[str]) -> str:
    return next(_MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream") for name in names)


def _record_set(published: PublishedTable) -> _Node:
    table = published.table
    source = (
        {"fileSet": {"@id": _set_id(table.name)}} if table.per_shard else {"fileObject": {"@id": quote(table.files)}}
    )
    return {
        "@type": "cr:RecordSet",
        "@id": table.name,
        "name": table.name,
        "description": f"One record per {table.row}.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{table.name}/{column.name}",
                "name": column.name,
                "description": table.describe(column.name) or column.name,
                **_data_type(decoded_type(column.type)),
                "source": source | {"extract": {"column": column.name}},
            }
            for column in published.schema
        ],
    }


_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    **{data_type: f"cr:Int{data_type.bit_width}" for data_type in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{data_type: f"cr:UInt{data_type.bit_width}" for data_type in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{data_type: f"cr:Float{data_type.bit_width}" for data_type in (pa.float16(), pa.float32(), pa.float64())},
}


def _data_type(data_type: pa.DataType) -> _Node:
    if pa.types.is_list(data_type):
        return {"dataType": _TYPES[decoded_type(data_type.value_type)], "isArray": True, "arrayShape": "-1"}
    return {"dataType": _TYPES[data_type]}
