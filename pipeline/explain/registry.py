"""Registry of the methods. The command line, the tables of the documentation and the tests read it."""

import re
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from pipeline.explain.method import Method, option_types
from pipeline.explain.network import Network
from schemas.errors import UsageError
from schemas.text import suggest

M = TypeVar("M", bound=type[Method])


class Registry(dict[str, type[Method]]):
    """Method classes by base name, in the order of registration."""

    def register(self, method: M) -> M:
        """Register a method class under its base name; a class decorator."""
        if method.base_name in self:
            raise ValueError(f"two methods are named {method.base_name}; rename one")
        self[method.base_name] = method
        return method

    def parse(self, spec: str) -> Method:
        """Make a method from ``name``, ``name:preset`` or ``name:option=value:option=value``.

        Raises:
            UsageError: no such method, option or value; the message lists the allowed ones.
        """
        base_name, *assignments = _split(spec)
        if base_name not in self:
            choices = f"there are {', '.join(self)}{suggest(base_name, self)}"
            raise UsageError(f"there is no method {base_name!r}; {choices}")
        method = self[base_name]
        hints = option_types(method)
        types = {option.name: hints[option.name] for option in method.option_fields()}
        options: dict[str, Any] = {}
        for assignment in assignments:
            if assignment in method.presets:
                options |= method.presets[assignment]
                continue
            option, _, value = assignment.partition("=")
            option = method.option_aliases.get(option, option)
            if option not in types:
                allowed = f"it has {', '.join(types)}" if types else "it has none"
                if option == "target" and not method.class_specific:
                    allowed = "its map is of the image, not of a class"
                raise UsageError(f"{spec}: {base_name} has no option {option!r}; {allowed}{suggest(option, types)}")
            options[option] = _convert(value, types[option], f"{spec}: {option}")
        return method(**options)

    def defaults(self, anatomy: Network) -> tuple[Method, ...]:
        """Return the methods of a run that names none: all that are cheap and defined for the model."""
        instances = (method.default_for(anatomy) for method in self.values() if method.default)
        return tuple(method for method in instances if not method.refusal(anatomy))

    def resolve(self, entries: Iterable[str | Method]) -> tuple[Method, ...]:
        """Return methods from specs and instances.

        Raises:
            UsageError: a spec does not parse, or two entries have the same name.
        """
        resolved = tuple(self.parse(entry) if isinstance(entry, str) else entry for entry in entries)
        for method in resolved:
            if not isinstance(method, Method):
                raise UsageError(f"{method!r} is neither the name of a method nor a method; give one of them")
        names = [method.name for method in resolved]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"method {name} is named twice; name it once")
        return resolved


def _split(spec: str) -> list[str]:
    """Split base name and options; a colon within a value, as in a path, does not split."""
    parts: list[str] = []
    for part in spec.strip().split(":"):
        if len(parts) > 1 and "=" in parts[-1] and not re.match(r"\w+(=|$)", part):
            parts[-1] += f":{part}"
        else:
            parts.append(part)
    return parts


def _convert(text: str, type_: Any, label: str) -> Any:
    """Convert the text of an option's value to the type of its field."""
    if typing.get_origin(type_) is Literal:
        for value in typing.get_args(type_):
            if text == str(value):
                return value
        raise UsageError(f"{label} is {text!r}; it can be {', '.join(map(str, typing.get_args(type_)))}")
    if type_ is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UsageError(f"{label} is {text!r}; it can be true or false")
    kind = next(part for part in typing.get_args(type_) or (type_,) if part is not type(None))
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{label} is {text!r}; it must be {kind.__name__}") from None


methods = Registry()
