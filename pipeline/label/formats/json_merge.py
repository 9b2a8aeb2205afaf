"""Merge of JSON files into one large file, whose content is never in memory as Python objects."""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.label.formats.base import compact_json


def merge_json_lists(
    parts: Iterable[Mapping[str, Any]], lists: Sequence[str], rest: Callable[[], Mapping[str, Any]]
) -> bytes:
    """Return a JSON object with the lists of all parts, each list in the order of the parts.

    Args:
        parts: JSON objects; one at a time is in memory.
        lists: names of the lists; the first should be the longest, since the others are copied once.
        rest: returns the other fields of the object, after all parts were read.
    """
    merged = io.BytesIO()
    merged.write(b"{%s:[" % json.dumps(lists[0]).encode())
    others = {name: io.BytesIO() for name in lists[1:]}
    streams = {lists[0]: merged, **others}
    begun: set[str] = set()
    for part in parts:
        for name, stream in streams.items():
            if part[name]:
                stream.write(b"," if name in begun else b"")
                stream.write(compact_json(part[name])[1:-1])
                begun.add(name)
    merged.write(b"]")
    for name, stream in others.items():
        merged.write(b",%s:[" % json.dumps(name).encode())
        merged.write(stream.getbuffer())
        merged.write(b"]")
    for name, value in rest().items():
        merged.write(b",%s:%s" % (json.dumps(name).encode(), compact_json(value)))
    merged.write(b"}")
    return merged.getvalue()
