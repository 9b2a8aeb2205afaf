"""What an exporter is, and which there are."""

import json
from collections.abc import Iterable, Mapping
from typing import Protocol

from pipeline.label.mask import Label
from schemas.errors import UsageError


class Exporter(Protocol):
    """A format of labels: one object for each tar, and perhaps one for all of them.

    To add one: a new file with a function each, and a line in ``EXPORTERS``.
    """

    def name(self, tar: str) -> str:
        """Path of a tar's object below the output folder."""
        ...

    def encode(self, labels: Iterable[Label], policy_hash: str) -> bytes:
        """The labels of one tar, in its order."""
        ...

    def merge(self, parts: Iterable[bytes]) -> Mapping[str, bytes]:
        """Objects that are made of all tars together, by path."""
        ...


def dumps(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def choose(names: Iterable[str], exporters: Mapping[str, Exporter]) -> dict[str, Exporter]:
    """Exporters by name.

    Raises:
        UsageError: there is no such exporter.
    """
    chosen = {}
    for name in names:
        if name not in exporters:
            raise UsageError(f"there is no label format {name!r}; there are {', '.join(exporters)}")
        chosen[name] = exporters[name]
    return chosen
