"""Types, limits and defaults of record fields, written for people."""

import types
from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NAMES = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", type(None): "nothing", object: "any"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "pattern": "matches"}


def type_text(annotation: Any, linked: frozenset[str] = frozenset()) -> str:
    """Describe a type in Markdown.

    Args:
        annotation: a type annotation.
        linked: names of records on the same page, which become links.
    """
    arguments, origin = get_args(annotation), get_origin(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return type_text(arguments[0], linked)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument, linked) for argument in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {type_text(arguments[0], linked)}"
    if origin is tuple:
        return f"[{', '.join(type_text(argument, linked) for argument in arguments)}]"
    if origin is dict:
        return f"mapping of {type_text(arguments[0], linked)} to {type_text(arguments[1], linked)}"
    name: str = annotation.__name__
    return f"[{name}](#{name.lower()})" if name in linked else f"`{name}`"


def limits_text(metadata: Iterable[Any]) -> str:
    """Describe the limits that pydantic enforces on a field."""
    limits = [
        f"{sign} `{value}`" if name == "pattern" else f"{sign} {value}"
        for constraint in metadata
        for name, sign in _SIGNS.items()
        if (value := getattr(constraint, name, None)) is not None
    ]
    return f", {', '.join(limits)}" if limits else ""


def default_text(field: FieldInfo) -> str:
    """Write a default value as YAML does."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{_to_yaml(value)}`"


def _to_yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, tuple | Enum):
        value = list(value) if isinstance(value, tuple) else value.value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
