"""Types, limits and defaults of fields, in words."""

import types
from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_PLAIN = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", type(None): "nothing", object: "any"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "pattern": "matches"}


def words(kind: Any, here: frozenset[str] = frozenset()) -> str:
    """A type in Markdown. Here: names of records that stand on the same page, and are led to."""
    arguments = get_args(kind)
    origin = get_origin(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return words(arguments[0], here)
    if origin in (Union, types.UnionType):
        return " or ".join(words(each, here) for each in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {words(arguments[0], here)}"
    if origin is tuple:
        return f"[{', '.join(words(each, here) for each in arguments)}]"
    if origin is dict:
        return f"mapping of {words(arguments[0], here)} to {words(arguments[1], here)}"
    name: str = kind.__name__
    return f"[{name}](#{name.lower()})" if name in here else f"`{name}`"


def bounds(metadata: Iterable[Any]) -> str:
    """Limits that pydantic holds a field to."""
    limits = [
        f"{sign} `{value}`" if name == "pattern" else f"{sign} {value}"
        for each in metadata
        for name, sign in _SIGNS.items()
        if (value := getattr(each, name, None)) is not None
    ]
    return f", {', '.join(limits)}" if limits else ""


def default(field: FieldInfo) -> str:
    """A default as YAML has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, tuple | Enum):
        value = list(value) if isinstance(value, tuple) else value.value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
