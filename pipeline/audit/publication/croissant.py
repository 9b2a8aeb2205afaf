"""The audit as a data set in Croissant, the JSON-LD that catalogues and loaders of machine learning read.

Croissant 1.1 and its vocabulary for responsible AI 1.0: https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from pipeline.audit.publication import card_text
from pipeline.audit.publication.contents import PublishedTable, decoded_type, find_tables
from pipeline.audit.publication.dataset_card import default_dataset_name
from pipeline.audit.publication.environment import public_model_name
from pipeline.store import Atlas, ObjectStore
from schemas.audit_records import DEFAULT_PUBLICATION, MANIFEST, AuditRecord, PublicationRecord
from schemas.base import sha256
from schemas.layout import ABOUT, LEASE

CROISSANT_NAME = "croissant.json"
_UNTOLD = (CROISSANT_NAME, MANIFEST, LEASE)
_PARQUET = "application/x-parquet"
_FORMATS = {
    ".parquet": _PARQUET,
    ".json": "application/json",
    ".md": "text/markdown",
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".h5": "application/x-hdf5",
    ".yaml": "application/yaml",
    ".npy": "application/octet-stream",
}
"""Media types by extension. Of HDF5 and NumPy no reader of Croissant knows the contents."""
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""As the specification gives it, and PROV."""
_Node = dict[str, Any]


def build_croissant(url: str, out: str, publication: PublicationRecord = DEFAULT_PUBLICATION) -> bytes:
    """Describe the folder of an audit, all but itself and the manifest; so it is made last but one.

    Args:
        url: of the atlas.
        out: folder or URL of the audit.
        publication: what only the publisher knows.

    Returns:
        JSON-LD: each table as a record set with its fields; single objects with their SHA-256, objects by shard as sets
        of files; and of what, by what it was made. The date is that of the last map, so that equal audits are equal.

    Raises:
        UsageError: there is no atlas, or the folder holds no audit.
    """
    atlas, objects = Atlas.open(url), ObjectStore(out)
    about = AuditRecord.read(objects.get(ABOUT), ABOUT)
    tables = list(find_tables(objects))
    name = publication.name or default_dataset_name(atlas)
    date = max((record.finished for record in atlas.records()), default="")[:10]
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": name,
        "description": card_text.PURPOSE,
        "license": _license(publication.license),
        "url": publication.url or f"urn:{about.digest()}",
        "creator": {"@type": "sc:Organization", "name": publication.creator},
        "datePublished": date,
        "version": publication.version,
        "citeAs": f"{publication.creator} ({date[:4]}): {name}, version {publication.version}.",
        "keywords": ["explainable AI", "attribution maps", "vision transformer", "audit", *about.methods],
        "distribution": _distribution(objects, tables),
        "recordSet": [_record_set(each) for each in tables],
        "rai:machineAnnotationTools": [
            f"vit-atlas {atlas.run.versions['vit-atlas']}, method {method}" for method in about.methods
        ],
        "rai:dataAnnotationProtocol": [card_text.PROTOCOL],
        "rai:dataUseCases": list(card_text.USES),
        "rai:dataLimitations": [*card_text.LIMITS, *(f"Not for: {use}" for use in card_text.MISUSES)],
        "rai:dataBiases": list(card_text.BIASES),
        "prov:wasDerivedFrom": _sources(atlas, about),
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"audit of the {about.target} maps, protocol {about.protocol}",
            "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": "vit-atlas"},
        },
    }
    return (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode()


def _license(name: str) -> str:
    """The page of a licence that SPDX knows; what else was said, as it was said."""
    return name if "://" in name or name == DEFAULT_PUBLICATION.license else f"https://spdx.org/licenses/{name}.html"


def _sources(atlas: Atlas, about: AuditRecord) -> list[_Node]:
    """What all of it was made from, by hashes."""
    network = public_model_name(atlas.run.model.name)
    known = {
        f"urn:{about.run}": "attribution maps of the run with this hash of its specification",
        f"urn:{atlas.run.model.weights}": f"weights of {network}, SHA-256 over their tensors",
    }
    if about.truth is not None:
        known[f"urn:{about.truth}"] = "boxes or masks of the objects, SHA-256"
    return [{"@id": name, "@type": "prov:Entity", "prov:label": label} for name, label in known.items()]


def _distribution(objects: ObjectStore, tables: Sequence[PublishedTable]) -> list[_Node]:
    """All objects of the folder: tables first, then what else stands in it, then what stands in its folders."""
    sets = [_file_set(_id(each.table.name), [each.table.files]) for each in tables if each.table.per_shard]
    by_shard = {name for each in tables if each.table.per_shard for name in each.names}
    tabled = [each.names[0] for each in tables if not each.table.per_shard]
    others = [name for name, _ in objects.walk() if name not in by_shard and name not in tabled and name not in _UNTOLD]
    single = [*tabled, *(name for name in others if "/" not in name)]
    found = [_file_object(name, data) for name, data in zip(single, objects.read(single), strict=True)]
    patterns: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in others:
        path = PurePosixPath(name)
        if "/" in name:
            patterns[path.parts[0], path.suffix].add(f"{path.parent}/*{path.suffix}")
    rest = [_file_set(_id(f"{top}{suffix}"), sorted(globs)) for (top, suffix), globs in sorted(patterns.items())]
    return [*found, *sets, *rest]


def _file_object(name: str, data: bytes) -> _Node:
    return {
        "@type": "cr:FileObject",
        "@id": quote(name),
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": _format([name]),
        "sha256": sha256(data).removeprefix("sha256:"),
    }


def _file_set(identity: str, globs: Sequence[str]) -> _Node:
    return {
        "@type": "cr:FileSet",
        "@id": identity,
        "name": identity,
        "encodingFormat": _format(globs),
        "includes": list(globs),
    }


def _id(name: str) -> str:
    """Of a set of files; record sets have the names themselves."""
    return f"{quote(name)}-files"


def _format(names: Iterable[str]) -> str:
    return next(_FORMATS.get(PurePosixPath(name).suffix, "application/octet-stream") for name in names)


def _record_set(each: PublishedTable) -> _Node:
    table = each.table
    source = {"fileSet": {"@id": _id(table.name)}} if table.per_shard else {"fileObject": {"@id": quote(table.files)}}
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
            for column in each.schema
        ],
    }


_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    **{kind: f"cr:Int{kind.bit_width}" for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{kind: f"cr:UInt{kind.bit_width}" for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{kind: f"cr:Float{kind.bit_width}" for kind in (pa.float16(), pa.float32(), pa.float64())},
}


def _data_type(kind: pa.DataType) -> _Node:
    if pa.types.is_list(kind):
        return {"dataType": _TYPES[decoded_type(kind.value_type)], "isArray": True, "arrayShape": "-1"}
    return {"dataType": _TYPES[kind]}
