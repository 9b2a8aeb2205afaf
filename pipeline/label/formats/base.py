"""What an exporter is."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.label.mask import Label
from pipeline.read.sample_keys import is_unsafe_key
from schemas.samples import SampleStatus

Written = tuple[str, bytes]
"""Path of an object below the output folder, and its contents."""


@dataclass(frozen=True)
class ExportContext:
    """What exporters may know beside the labels.

    Attributes:
        policy_hash: of the policy that was applied.
        classes: names of the classes by their index; empty where nobody said them.
    """

    policy_hash: str
    classes: tuple[str, ...] = ()

    def name(self, class_id: int) -> str:
        """The name of a class; its number where it has none."""
        return self.classes[class_id] if class_id < len(self.classes) else str(class_id)


class LabelFormat(Protocol):
    """A format of labels: objects for each shard, and perhaps some that are made of all of them.

    To add one: a file in ``formats``, and a line in its ``EXPORTERS``.

    Attributes:
        names_files_by_key: it names files by key, so no key may stand in two shards.
        needs_heatmap: it needs the maps that masks are cut from, which take much memory.
    """

    names_files_by_key: bool
    needs_heatmap: bool

    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[Written]:
        """Objects of one shard. The labels come in its order, once."""
        ...

    def merge(self, shards: Sequence[str], read: "Read", context: ExportContext) -> Iterator[Written]:
        """Objects that are made of all shards together."""
        ...


class Read(Protocol):
    """Reads an object that ``export`` has written."""

    def __call__(self, name: str) -> bytes:
        """Its contents."""
        ...


def compact_json(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def has_unique_key(label: Label) -> bool:
    """Whether a sample has a key of its own that can be the name of a file."""
    return label.status not in (SampleStatus.UNSAFE_KEY, SampleStatus.DUPLICATE_KEY) and not is_unsafe_key(
        label.sample["key"]
    )
