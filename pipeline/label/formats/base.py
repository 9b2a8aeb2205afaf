"""The base class of label formats, and what they share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.label.mask import Label
from pipeline.read.sample_keys import is_unsafe_key
from schemas.run import Grouping
from schemas.samples import SampleStatus

OutputObject = tuple[str, bytes]
"""Path of an object below the output folder, and its content."""
ReadObject = Callable[[str], bytes]
"""Returns the content of an object that ``LabelFormat.export`` gave, by its path."""


@dataclass(frozen=True)
class ExportContext:
    """What a format gets beside the labels.

    Attributes:
        policy_hash: hash of the policy that was applied.
        class_names: names of the classes by class id; empty if none were given.
        grouping: rule by which the members of the image shards became samples.
    """

    policy_hash: str
    class_names: tuple[str, ...] = ()
    grouping: Grouping = Grouping()

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or its number where it has none."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)


class LabelFormat(ABC):
    """A format of labels: objects of each shard, and optionally objects that are merged from all shards.

    To add one: a module in ``pipeline/label/formats``, and a line in ``LABEL_FORMATS``.

    Attributes:
        names_files_by_key: objects are named by the keys of samples, so no key may occur in two shards.
        needs_class: it files masks by class, so it does not take those of texts.
        needs_heatmap: labels must have their heatmap, which takes much memory.
    """

    names_files_by_key: ClassVar[bool] = False
    needs_heatmap: ClassVar[bool] = False
    needs_class: ClassVar[bool] = True

    @abstractmethod
    def export(self, shard: str, labels: Iterable[Label], context: ExportContext) -> Iterator[OutputObject]:
        """Yield the objects of one shard.

        Args:
            shard: short name of the shard.
            labels: labels of all its samples, in the order of the shard; they can be iterated once.
            context: what is the same for all shards.
        """

    def merge(self, shards: Sequence[str], read: ReadObject, context: ExportContext) -> Iterator[OutputObject]:
        """Yield the objects that are merged from all shards.

        Args:
            shards: short names of all shards.
            read: returns what ``export`` gave.
            context: what is the same for all shards.
        """
        return iter(())


def compact_json(value: object) -> bytes:
    """Return a value as JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def has_unique_key(label: Label) -> bool:
    """Return whether the key of a sample is its own and can be the name of a file."""
    return label.status not in (SampleStatus.UNSAFE_KEY, SampleStatus.DUPLICATE_KEY) and not is_unsafe_key(
        label.sample["key"]
    )
