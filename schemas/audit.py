"""The audit of an atlas: its manifest, and its tables."""

from schemas.record import Record
from schemas.run import ObjectRecord

MANIFEST = "manifest.json"
"""Stands right in the folder that it is of."""


class ManifestRecord(Record):
    """``manifest.json``: everything that a published folder holds, but itself.

    Attributes:
        root: of the Merkle tree over ``objects``, as ``sha256:…``. Who has it from elsewhere can check everything.
        objects: by path, sorted.
    """

    format: int = 1
    root: str
    objects: tuple[ObjectRecord, ...]
