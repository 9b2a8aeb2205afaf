"""Every interleaving of processes that run real code over the operations of one object store.

Nothing runs at the same time. A process is a function of a store; the store hands it the results of the operations
that it has made so far, and ends it at the first that has no result yet. So each process is started again and again,
one operation further each time, and a state is what the store holds and what each process has seen: where both are
equal, all that follows is equal, and is followed once.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pipeline.store import ObjectStore
from schemas.base import sha256
from schemas.commits import ObjectRecord

Objects = frozenset[tuple[str, bytes]]
"""What the store holds."""
Operation = tuple[Any, ...]
Process = Callable[[ObjectStore], object]
T = TypeVar("T")


class Pending(BaseException):
    """The process is at an operation that has no result yet: nothing may catch this."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation


class ScriptedStore(ObjectStore):
    """A store that answers from a list of results."""

    def __init__(self, results: tuple[Any, ...]) -> None:
        self.url, self._results = "memory", iter(results)

    def _ask(self, *operation: Any) -> Any:
        for result in self._results:
            if isinstance(result, FileNotFoundError):
                raise result
            return result
        raise Pending(operation)

    def put(self, name: str, data: bytes) -> ObjectRecord:
        self._ask("put", name, data)
        return ObjectRecord(path=name, size=len(data), sha256=sha256(data))

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._ask("create", name, data))

    def replace(self, name: str, data: bytes | None, expected: str) -> bool:
        return bool(self._ask("replace", name, data, expected))

    def delete(self, name: str) -> None:
        self._ask("delete", name)

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        return bytes(self._ask("get", name)[start:end])

    def exists(self, name: str) -> bool:
        return bool(self._ask("exists", name))

    def list(self, folder: str) -> list[str]:
        return list(self._ask("list", folder))


MISSING = FileNotFoundError()


def carry_out(operation: Operation, objects: Objects) -> tuple[Any, Objects]:
    """Return the result of an operation, and what the store holds then."""
    kind, name, *arguments = operation
    held = dict(objects)
    match kind:
        case "put":
            held[name] = arguments[0]
            return None, frozenset(held.items())
        case "create":
            result = held.setdefault(name, arguments[0]) == arguments[0]
            return result, frozenset(held.items())
        case "replace":
            data, expected = arguments
            if name not in held:
                return False, objects
            if data is not None and held[name] == data:
                return True, objects
            if sha256(held[name]) != expected:
                return False, objects
            held[name] = data
            if data is None:
                del held[name]
            return True, frozenset(held.items())
        case "delete":
            held.pop(name, None)
            return None, frozenset(held.items())
        case "get":
            return held.get(name, MISSING), objects
        case "exists":
            return name in held, objects
        case "list":
            inside = (other.removeprefix(f"{name}/") for other in held if other.startswith(f"{name}/"))
            return tuple(sorted({other.partition("/")[0] for other in inside})), objects
    raise AssertionError(operation)


class _Numbers(Generic[T]):
    """Numbers of values, from 0."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def of(self, value: T) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self.values)
            self.values.append(value)
        return self._numbers[value]


Step = tuple[Operation | None, object]
"""The next operation of a process, or None and what it has come to."""
State = tuple[int, ...]
"""A moment: number of what the store holds, then of what each process has seen."""


class Explorer:
    """All states that some processes can bring about.

    Attributes:
        processes: by name.
        changes: every operation that changed the store, with what it held before and after.
        ends: what each process has come to, in every state in which all have come to an end, and what the store holds.
        states: number of different states.
    """

    def __init__(self, processes: Mapping[str, Process], objects: Objects) -> None:
        self.processes = processes
        self.changes: set[tuple[Operation, Objects, Objects]] = set()
        self.ends: list[tuple[dict[str, object], Objects]] = []
        self._stores, self._seen = _Numbers[Objects](), _Numbers[tuple[str, tuple[Any, ...]]]()
        self._steps: dict[int, Step] = {}
        self._moves: dict[tuple[int, int], tuple[int, int] | None] = {}
        first = (self._stores.of(objects), *(self._seen.of((name, ())) for name in processes))
        known, left = {first}, [first]
        while left:
            following = self._follow(left.pop())
            left += [state for state in following if state not in known]
            known.update(following)
        self.states = len(known)

    @property
    def stores(self) -> list[Objects]:
        """Everything that the store has held."""
        return self._stores.values

    def _follow(self, state: State) -> list[State]:
        store, *all_seen = state
        following: list[State] = []
        for place, seen in enumerate(all_seen, 1):
            key = store, seen
            if key not in self._moves:
                self._moves[key] = self._move(store, seen)
            if (moved := self._moves[key]) is not None:
                following.append((moved[0], *state[1:place], moved[1], *state[place + 1 :]))
        if not following:
            outcomes = {name: self._steps[seen][1] for name, seen in zip(self.processes, all_seen, strict=True)}
            self.ends.append((outcomes, self._stores.values[store]))
        return following

    def _move(self, store: int, seen: int) -> tuple[int, int] | None:
        """Let a process go one operation further; None if it has come to an end."""
        name, results = self._seen.values[seen]
        if seen not in self._steps:
            self._steps[seen] = next_step(self.processes[name], results)
        operation, _ = self._steps[seen]
        if operation is None:
            return None
        before = self._stores.values[store]
        result, after = carry_out(operation, before)
        if after != before:
            self.changes.add((operation, before, after))
        return self._stores.of(after), self._seen.of((name, (*results, result)))


def next_step(process: Process, results: tuple[Any, ...]) -> Step:
    """Return the next operation of a process that has had these results."""
    try:
        return None, process(ScriptedStore(results))
    except Pending as pending:
        return pending.operation, None
    except Exception as error:
        return None, error


def run_alone(process: Process, objects: Objects) -> tuple[object, Objects]:
    """Return what a process comes to, and what the store holds then."""
    results: tuple[Any, ...] = ()
    while (step := next_step(process, results))[0] is not None:
        result, objects = carry_out(step[0], objects)
        results = (*results, result)
    if isinstance(step[1], Exception):
        raise step[1]
    return step[1], objects
