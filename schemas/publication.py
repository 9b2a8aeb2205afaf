"""What makes a folder fit to be published: what is in it, what it was made with, and who stands for it."""

from typing import Annotated

from pydantic import Field

from schemas.base import Record
from schemas.commits import ObjectRecord
from schemas.run import TargetKind

MANIFEST = "manifest.json"
"""Stands right in the folder that it is of."""


class ManifestRecord(Record):
    """``manifest.json``: everything that a published folder holds, but itself.

    Attributes:
        format: version of this record.
        root: of the Merkle tree over ``objects``, as ``sha256:…``. Who has it from elsewhere can check everything.
        objects: by path, sorted.
    """

    format: int = 1
    root: str
    objects: tuple[ObjectRecord, ...]


class EnvironmentRecord(Record):
    """``environment.json``: what maps and audit were made with. Names no machine, no person and no path.

    Attributes:
        audit: versions of Python and of the packages that made the audit.
        platform, cpu, gpus: of the machine that made it; cpu is empty where that is not known.
        run: hash of the run that made the maps.
        planned: versions of the packages that it was planned with.
        computed: of those that computed, each with the number of its shards.
        model: name of the network in timm.
        weights: SHA-256 over its tensors.
        parameters, classes: how many it has.
        input_size, grid: height and width in pixels; rows and columns of patches.
        geometry, precision, batch_size, seed, targets: of the run.
        methods: options by name of the maps.
        artifacts: SHA-256 of weights of methods that have their own.
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
    methods: dict[str, dict[str, str | int | float | bool]]
    artifacts: dict[str, str]
    provenance: dict[str, str]


class PublicationRecord(Record):
    """What only the publisher of an audit knows, for its card and for Croissant.

    Attributes:
        name: of the data set; empty is that of the atlas' folder.
        license: an identifier of SPDX, the address of another licence, or ``unknown``.
        url: of its page; empty where it has none.
        creator: who made it.
        version: of the data set, as ``major.minor.patch``.
    """

    name: str = ""
    license: str = "unknown"
    url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    creator: str = "unknown"
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "1.0.0"


UNSAID = PublicationRecord()
"""Of a publisher who said nothing."""
