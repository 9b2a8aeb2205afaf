"""The records of a shard, which is one tar of a dataset, and of its file."""

from dataclasses import replace
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from schemas.base import Count, Record
from schemas.run import Name


class SourceRecord(Record):
    """What tells whether the file of a shard is another one.

    Attributes:
        size: in bytes, or −1 where the store does not tell.
        fingerprint: what the store tells of its contents, such as an ETag; of a local file, a hash of its start, middle
            and end. None where neither is to be had.
        listing: hash of names and sizes of its members; None where its headers were not read.
    """

    size: int
    fingerprint: str | None = None
    listing: str | None = None

    def changes(self, now: "SourceRecord") -> list[str]:
        """Return a phrase for each value that is known of both files and differs.

        Args:
            now: the file as it is now.
        """
        phrases = []
        if -1 not in (self.size, now.size) and self.size != now.size:
            phrases.append(f"it had {self.size:,} bytes and has {now.size:,}")
        if None not in (self.fingerprint, now.fingerprint) and self.fingerprint != now.fingerprint:
            phrases.append(f"its fingerprint was {self.fingerprint} and is {now.fingerprint}")
        if None not in (self.listing, now.listing) and self.listing != now.listing:
            phrases.append("it lists other members")
        return phrases


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ShardRecord:
    """One shard, the unit of work and of commit. There may be very many, so it is a small dataclass, not a ``Record``.

    Attributes:
        name: its short name, unique in the run and safe as a file name.
        url: path or URL.
        samples: number of samples, and of rows in the atlas.
        size: size in bytes, or −1 where the store does not tell.
        fault: error that the scan found, or None; such a shard is quarantined, and the run fails at its end.
        partial: use the ``samples`` samples before the fault instead.
        fingerprint: as in ``SourceRecord``.
        listing: as in ``SourceRecord``.
        left_out: number and extensions of the files that belong to no sample, in words; None if the scan found none.
        unlabelled: number of samples that the scan found without a label member.
    """

    name: Name
    url: str
    samples: Count
    size: Annotated[int, Field(ge=-1)]
    fault: str | None = None
    partial: bool = False
    fingerprint: str | None = None
    listing: str | None = None
    left_out: str | None = None
    unlabelled: Count = 0

    @property
    def source(self) -> SourceRecord:
        """The file as it was planned. One that cannot be used may be replaced, so nothing is known of it."""
        if self.fault and not self.partial:
            return SourceRecord(size=-1)
        return SourceRecord(size=self.size, fingerprint=self.fingerprint, listing=self.listing)

    def of_any_source(self) -> "ShardRecord":
        """Return the shard without what is known of its file."""
        return replace(self, size=-1, fingerprint=None, listing=None)
