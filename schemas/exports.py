"""What an audit is exported as, for programs of others."""

from schemas.base import Record
from schemas.run import TargetKind


class ExportRecord(Record):
    """``about.json`` of an export: what it is made from. Written first.

    Attributes:
        protocol: version of the code that makes exports. One of another version is not gone on with.
        kind: name in ``pipeline.audit.exports.EXPORTERS``.
        run: hash of the run that made the atlas.
        target, methods: whose maps.
        truth: digest of the truth, where one was given.
        pictures: whether their pixels are in it.
        classes: names of the classes by index; none where they are numbers.
    """

    protocol: int = 1
    kind: str
    run: str
    target: TargetKind
    methods: tuple[str, ...]
    truth: str | None
    pictures: bool
    classes: tuple[str, ...]
