"""All methods by name. The command line, the tables in the docs and the tests read it from here."""

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.method import Method
from schemas.errors import UsageError
from schemas.text import suggest

M = TypeVar("M", bound=type[Method])


class Registry(Mapping[str, type[Method]]):
    """Method classes by their base name, in the order of registration."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Method]] = {}

    def register(self, method: M) -> M:
        """Class decorator: make a method known by its base name."""
        if method.base_name in self._classes:
            raise ValueError(f"two methods are called {method.base_name}")
        self._classes[method.base_name] = method
        return method

    def __getitem__(self, base: str) -> type[Method]:
        return self._classes[base]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def parse(self, text: str) -> Method:
        """A method from ``name``, ``name:preset`` or ``name:option=value:option=value``.

        Raises:
            UsageError: no such method, option or value; the message lists what there is.
        """
        base, *pairs = _parts(text)
        if base not in self._classes:
            raise UsageError(f"there is no method {base!r}; there are {', '.join(self)}{suggest(base, self)}")
        method = self._classes[base]
        kinds = {name: kind for name, kind in typing.get_type_hints(method).items() if not _is_class_variable(kind)}
        chosen: dict[str, Any] = {}
        for pair in pairs:
            if pair in method.presets:
                chosen |= method.presets[pair]
                continue
            option, _, value = pair.partition("=")
            if option not in kinds:
                there = f"it has {', '.join(kinds)}" if kinds else "it has none"
                raise UsageError(f"{text}: {base} has no option {option!r}; {there}{suggest(option, kinds)}")
            chosen[option] = _convert(value, kinds[option], f"{text}: {option}")
        return method(**chosen)

    def defaults(self, anatomy: Anatomy) -> tuple[Method, ...]:
        """The methods of a run that names none: all that are cheap and defined for the network."""
        usual = (method() for method in self._classes.values() if method.default)
        return tuple(method for method in usual if not method.unsupported(anatomy))

    def resolve(self, entries: Iterable[str | Method]) -> tuple[Method, ...]:
        """Methods from names and instances.

        Raises:
            UsageError: a name does not parse, or two entries have the same name.
        """
        resolved = tuple(self.parse(entry) if isinstance(entry, str) else entry for entry in entries)
        for method in resolved:
            if not isinstance(method, Method):
                raise UsageError(f"{method!r} is neither the name of a method nor a method")
        names = [method.name for method in resolved]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"method {name} is named twice")
        return resolved


def _parts(text: str) -> list[str]:
    """Base and options; a colon within a value, as a path may have it, stays there."""
    parts: list[str] = []
    for part in text.strip().split(":"):
        if len(parts) > 1 and "=" in parts[-1] and not re.match(r"\w+(=|$)", part):
            parts[-1] += f":{part}"
        else:
            parts.append(part)
    return parts


def _is_class_variable(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.ClassVar


def _convert(text: str, kind: Any, where: str) -> Any:
    """The value of an option from its text, by the type of the field."""
    if typing.get_origin(kind) is Literal:
        for value in typing.get_args(kind):
            if text == str(value):
                return value
        raise UsageError(f"{where} is {text!r}; it can be {', '.join(map(str, typing.get_args(kind)))}")
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UsageError(f"{where} is {text!r}; it can be true or false")
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{where} is {text!r}; it must be {kind.__name__}") from None


methods = Registry()
