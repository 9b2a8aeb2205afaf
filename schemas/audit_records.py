"""Records of an audit, its exports and its publication."""

from typing import Annotated

from pydantic import Field

from schemas.base import Record
from schemas.commits import ObjectRecord
from schemas.targets import Target, TargetKind

MANIFEST = "manifest.json"
"""File name of the manifest, in the folder that it describes."""


class AuditSpec(Record):
    """``about.json`` of a folder of audit tables: what they are made from. Written first.

    Attributes:
        protocol: version of the formulas.
        run: hash of the run that made the atlas.
        target: target kind of the maps.
        methods: methods whose maps are audited.
        truth: digest of the truth, where one was given.
    """

    protocol: int = 1
    run: str
    target: Target
    methods: tuple[str, ...]
    truth: str | None = None


class ExportSpec(Record):
    """``about.json`` of an export: what it is made from. Written first.

    Attributes:
        protocol: version of the exporters; an export of another version is not resumed.
        kind: name in ``pipeline.audit.exports.EXPORTERS``.
        run: hash of the run that made the atlas.
        target: target kind of the maps.
        methods: methods whose maps are exported.
        truth: digest of the truth, where one was given.
        pixels: include the pixels of the images.
        classes: names of the classes by class id; empty where they are numbers.
    """

    protocol: int = 1
    kind: str
    run: str
    target: Target
    methods: tuple[str, ...]
    truth: str | None
    pixels: bool
    classes: tuple[str, ...]


class ManifestRecord(Record):
    """``manifest.json``: everything in a published folder but the manifest itself.

    Attributes:
        format: version of this record.
        root: root of the Merkle tree over ``objects``, as ``sha256:…``. It suffices to verify the whole folder.
        objects: records of the objects, sorted by path.
    """

    format: int = 1
    root: str
    objects: tuple[ObjectRecord, ...]


class EnvironmentRecord(Record):
    """``environment.json``: software and hardware behind maps and audit. It names no machine, person or path.

    Attributes:
        audit: versions of Python and of the packages that made the audit.
        platform: operating system and architecture of the machine that made it.
        cpu: its processor; empty where that is not known.
        gpus: its GPUs.
        run: hash of the run that made the maps.
        planned: versions of the packages that planned the run.
        computed: versions of the packages that computed maps, each with its number of shards.
        model: timm name of the network.
        weights: SHA-256 over its tensors.
        parameters: number of parameters.
        classes: number of classes.
        input_size: height and width in pixels.
        grid: rows and columns of patches.
        geometry: as in ``RunSpec``.
        precision: as in ``RunSpec``.
        batch_size: as in ``RunSpec``.
        seed: as in ``RunSpec``.
        targets: target kinds of the run.
        methods: options by name of the maps.
        artifacts: SHA-256 of the artifact of each learned method.
        provenance: design that a method follows, where its paper leaves one open.
    """

    audit: dict[str, str]
    platform: str
    cpu: str
    gpus: tuple[str, ...]
    run: str
    planned: dict[str, str]
    computed: tuple[tuple[dict[str, str], int], ...]
    model: str
    weights: str
    parameters: int
    classes: int
    input_size: tuple[int, int]
    grid: tuple[int, int]
    geometry: str
    precision: str
    batch_size: int
    seed: int
    targets: tuple[TargetKind, ...]
    methods: dict[str, dict[str, bool | int | float | str]]
    artifacts: dict[str, str]
    provenance: dict[str, str]


class PublicationRecord(Record):
    """Facts that only the publisher of an audit knows, for the dataset card and Croissant.

    Attributes:
        name: name of the dataset; empty is the name of the atlas folder.
        license: an SPDX identifier, the address of another licence, or ``unknown``.
        url: address of its page; empty where it has none.
        creator: name of the creator.
        version: version of the dataset, as ``major.minor.patch``.
    """

    name: str = ""
    license: str = "unknown"
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    creator: str = "unknown"
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "1.0.0"


DEFAULT_PUBLICATION = PublicationRecord()
"""Publication record of a publisher who gave none."""
