"""One large JSON of the parts that shards have written, without all of it in memory as objects."""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.label.formats.base import compact_json


def joined(parts: Iterable[Mapping[str, Any]], lists: Sequence[str], rest: Callable[[], Mapping[str, Any]]) -> bytes:
    """A JSON object with the lists of all parts, each list in the order of the parts.

    Args:
        parts: JSON objects; one at a time is looked at.
        lists: names of the lists in them; the first should be the longest, since the others are copied once.
        rest: gives what else stands in the object, when all parts have gone by.
    """
    whole = io.BytesIO()
    whole.write(b"{%s:[" % json.dumps(lists[0]).encode())
    others = {name: io.BytesIO() for name in lists[1:]}
    streams = {lists[0]: whole, **others}
    begun: set[str] = set()
    for part in parts:
        for name, stream in streams.items():
            if part[name]:
                stream.write(b"," if name in begun else b"")
                stream.write(compact_json(part[name])[1:-1])
                begun.add(name)
    whole.write(b"]")
    for name, stream in others.items():
        whole.write(b",%s:[" % json.dumps(name).encode())
        whole.write(stream.getbuffer())
        whole.write(b"]")
    for name, value in rest().items():
        whole.write(b",%s:%s" % (json.dumps(name).encode(), compact_json(value)))
    whole.write(b"}")
    return whole.getvalue()
