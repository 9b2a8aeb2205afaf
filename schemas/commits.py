"""Records of finished and current work: commits of shards and of derived products, quarantines, the lease."""

from typing import Annotated

from pydantic import Field

from schemas.base import Count, Finite, GrowingRecord, Record, Time
from schemas.layout import FORMAT
from schemas.shard_record import SourceRecord
from schemas.token_norms import TokenNorms


class ObjectRecord(Record):
    """One written object.

    Attributes:
        path: its name below the folder of the record.
        size: length in bytes.
        sha256: ``sha256:…`` of its contents.
    """

    path: str
    size: Count
    sha256: str


class CommitRecord(GrowingRecord):
    """``commits/<shard>.json``: the proof that a shard is done. Without it, nothing of the shard is read.

    Attributes:
        format: version of the layout.
        shard: short name of the shard.
        shard_index: its index in the run.
        rows: samples of the shard.
        ok: number of them that have maps.
        statuses: number of samples by status.
        degenerate: number of constant or non-finite maps by method, where there are any.
        isolated: number of maps that show a few single patches only by method, where there are any; see ``Flag``.
        token_norms: norms of the patch tokens of the first images; None for a network that is no plain vision
            transformer, and for a part.
        drift: error of half precision by method: the largest difference to float32 as a fraction of the largest value
            of the map, median over maps of the first images of the shard. Empty in full precision.
        fallbacks: in a run that decodes on the GPU, number of images that were decoded in processes, by reason.
        objects: all objects that were written before this record.
        run_hash: ``run_hash`` of the run.
        source: the file that was read.
        versions: versions of the packages that computed the shard; several where samples were processed again later.
        replaces: SHA-256 of the commit that this one has replaced, in ``--retry-failed``; empty: none.
        lease: ``holder`` of the lease that it was written under; empty: none.
        seconds: time by stage.
        attempt: number of the attempt, from 1.
        host: machine that did it.
        finished: time of the commit. ``lease``, ``seconds``, ``attempt``, ``host`` and ``finished`` may differ between
            equal atlases.
    """

    later_fields = frozenset({"isolated", "token_norms"})
    format: int = FORMAT
    shard: str
    shard_index: Count
    rows: Count
    ok: Count
    statuses: dict[str, Count]
    degenerate: dict[str, Count]
    isolated: dict[str, Count] = Field(default_factory=dict)
    token_norms: TokenNorms | None = None
    drift: dict[str, float]
    fallbacks: dict[str, Count] = Field(default_factory=dict)
    objects: tuple[ObjectRecord, ...]
    run_hash: str
    source: SourceRecord
    versions: dict[str, str]
    replaces: str = ""
    lease: str = ""
    seconds: dict[str, Finite]
    attempt: Count
    host: str
    finished: Time


class QuarantineRecord(Record):
    """``quarantined/<shard>.json``: a shard that the last run could not do. The next run removes it and tries again.

    Attributes:
        shard: short name of the shard.
        reason: one sentence.
        finished: time of the last attempt.
    """

    shard: str
    reason: str
    finished: Time


class LeaseRecord(Record):
    """``lease.json``: the run that is writing to an atlas now. It is deleted when that run ends.

    Attributes:
        holder: random identifier of the run: its fencing token, which its workers have and its commits carry.
        host: machine it runs on.
        pid: its process id.
        since: time it began.
        heartbeat: counter that increases while the run is alive.
        in_progress: shards that are being done.
    """

    holder: str
    host: str
    pid: Annotated[int, Field(ge=1, lt=1 << 31)]
    since: Time
    heartbeat: Count = 0
    in_progress: tuple[str, ...] = ()


class DroppedRecord(Record):
    """``dropped.json``: methods of the run that the atlas no longer has. Written before their objects are deleted.

    Attributes:
        methods: their names.
    """

    methods: tuple[str, ...]


class ProductRecord(Record):
    """``product.json`` of a derived product: everything in its folder but what the commits name. Written last.

    Attributes:
        objects: the settings, the commits of the shards, and what is made of all shards together; sorted by path.
    """

    objects: tuple[ObjectRecord, ...]


class DerivedCommit(GrowingRecord):
    """``commits/<shard>.json`` of a derived product: the proof that one shard of it is done.

    Attributes:
        shard: short name of the shard.
        parent: hash of the maps and samples that it was made from.
        settings_hash: hash of the policy or protocol that made it.
        items: the formats, methods or samples that are done.
        counts: number of samples by status.
        statistics: values for the summary.
        objects: all objects that were written before this record.
        parts: hash of the maps of each part that it was made from, by its ``run_hash``; of several networks, of what
            each has of the images, by ``NAME:run_hash``.
        runs: ``run_hash`` of the run that has made the maps of each method: of the atlas, or a part.
        atlas: ``run_hash`` of the atlas that has the shard, where several are joined; empty: the product names it.
    """

    later_fields = frozenset({"parts", "runs", "atlas"})
    shard: str
    parent: str
    settings_hash: str
    items: tuple[str, ...]
    counts: dict[str, Count]
    statistics: dict[str, float] = Field(default_factory=dict)
    objects: tuple[ObjectRecord, ...]
    parts: dict[str, str] = Field(default_factory=dict)
    runs: dict[str, str] = Field(default_factory=dict)
    atlas: str = ""
