"""Operations on objects, counted: a bucket charges for each, and answers each after some 30 ms."""

from collections import Counter
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from pipeline.store import ObjectStore

_COUNTING = Lock()
"""Many ask side by side, and ``+=`` of two threads may count but one."""
_PAGE = 1000
"""Names in one answer of a bucket to a listing."""


def counted(replace: Callable[[Any, str, Any], None] = setattr) -> Counter[str]:
    """How often each was made from now on; a listing counts once for every page, and ``replace``, which only a lease
    and a retry use, never: a lease is renewed by the clock.

    Args:
        replace: puts something in the place of a method; pytest's takes it back in the end.
    """
    counts: Counter[str] = Counter()
    for name in ("get", "put", "exists", "delete", "create"):
        replace(ObjectStore, name, _counting(name, getattr(ObjectStore, name), counts))
    list_, walk = ObjectStore.list, ObjectStore.list_all

    def listing(self: ObjectStore, folder: str) -> list[str]:
        found = list_(self, folder)
        counts["list"] += 1 + len(found) // _PAGE
        return found

    def walking(self: ObjectStore) -> Iterator[tuple[str, int]]:
        found = list(walk(self))
        counts["list"] += 1 + len(found) // _PAGE
        yield from found

    replace(ObjectStore, "list", listing)
    replace(ObjectStore, "list_all", walking)
    return counts


def _counting(name: str, plain: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def instead(*args: Any, **options: Any) -> Any:
        with _COUNTING:
            counts[name] += 1
        return plain(*args, **options)

    return instead
