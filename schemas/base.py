"""Base class of all records, with one serialization and one hash, and types of fields that several records have."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from schemas.errors import UsageError
from schemas.text import suggest

_MAPPING_EXPECTED = "must be a mapping, as in {kind: …}"
_MESSAGES = {
    "tuple_type": "must be a list, as in [a, b]",
    "model_type": _MAPPING_EXPECTED,
    "model_attributes_type": _MAPPING_EXPECTED,
}
"""Messages that replace those of pydantic, which name Python types."""


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("must have a time zone, as in 2026-01-01T00:00:00+00:00")
    return text


Count = Annotated[int, Field(ge=0, lt=1 << 53)]
"""Number of things; readers in other languages hold it exactly, too."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is neither NaN nor infinite."""
Time = Annotated[str, AfterValidator(_check_time)]
"""A time in ISO 8601 with its zone."""

MAX_RECORD_BYTES = 1 << 28
"""Largest record that is parsed. The plan of 100,000 shards has 17 MB."""
_MAX_SHOWN = 80
"""Characters of a field's name that an error shows: the name may come from the data."""
_MAX_VALUE = 300
"""Characters of a value that a difference shows; the names of ten thousand classes are one value."""


class Record(BaseModel):
    """A record that is written to disk as JSON, or read from a user as YAML.

    Records may come from others. This class is the only reader of them: it limits their size, pydantic limits their
    depth, and the types of the fields exclude values that no writer of this project makes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """Return indented JSON in the order of the fields. Equal records give equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1) + "\n").encode()

    def digest(self) -> str:
        """Return the SHA-256 of the record, as ``sha256:…``."""
        return sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode())

    @classmethod
    def read(cls, data: bytes | dict[str, Any], source: str) -> Self:
        """Parse a record.

        Args:
            data: JSON bytes, or a mapping from a YAML parser.
            source: name of the source, for error messages.

        Raises:
            UsageError: the data do not fit the record; the message names the source, the field and the reason.
        """
        if isinstance(data, bytes) and len(data) > MAX_RECORD_BYTES:
            raise UsageError(f"{source}: has {len(data):,} bytes, more than the {MAX_RECORD_BYTES:,} of any record")
        try:
            if isinstance(data, bytes):
                return cls.model_validate_json(data)
            return cls.model_validate(data)
        except ValidationError as error:
            # An unknown field is often the reason why another one is missing.
            first = min(error.errors(), key=lambda details: details["type"] != "extra_forbidden")
            field = ".".join(_shorten(str(part)) for part in first["loc"])
            reason = _MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, "))
            if first["type"] == "extra_forbidden":
                fields = cls._fields_at(first["loc"][:-1])
                hint = suggest(_shorten(str(first["loc"][-1])), fields)
                reason = f"there is no such field; the fields are {', '.join(fields)}{hint}"
            raise UsageError(": ".join(filter(None, (source, field, reason)))) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a record from a YAML file.

        Raises:
            UsageError: the file does not exist, is not YAML, or does not fit the record.
        """
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path}: is not a text file") from None
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        fields = ", ".join(required or list(cls.model_fields)[:3])
        return cls.read(mapping(text, str(path), f"{fields} …"), str(path))

    @classmethod
    def _fields_at(cls, path: tuple[int | str, ...]) -> list[str]:
        """Return the names of the fields of the record at a path of fields."""
        records: list[Any] = [cls]
        for part in path:
            inner = [record.model_fields[part].annotation for record in records if part in record.model_fields]
            if inner:
                records = [record for annotation in inner for record in _records_in(annotation)]
            else:  # an index, or the kind of the record
                records = [record for record in records if part in _kinds(record)] or records
        return [name for record in records for name in record.model_fields]


class GrowingRecord(Record):
    """A record that has got further fields in later versions.

    These have a default that means what was done before, and are not written where they have it. So the records of both
    versions are equal byte for byte, and so are their hashes.

    Class attributes:
        later_fields: their names.
    """

    later_fields: ClassVar[frozenset[str]]

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        for name in self.later_fields & values.keys():
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del values[name]
        return values


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _records_in(annotation: Any) -> list[Any]:
    """Return the records in a type such as ``A | B | None`` or ``tuple[A, ...]``."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]


def _kinds(record: Any) -> tuple[Any, ...]:
    """Return the allowed values of the field ``kind`` of a record."""
    field = record.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


class _UniqueKeyLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML loader for plain data. It refuses duplicate keys; PyYAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if any((key.tag, key.value) == (other.tag, other.value) for other in keys[:index]):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def mapping(text: str, source: str, fields: str) -> dict[str, Any]:
    """Return the mapping in a YAML text.

    Args:
        text: YAML.
        source: name of the source, for error messages.
        fields: description of the expected fields, for error messages.

    Raises:
        UsageError: the text is not YAML, or not a mapping.
    """
    try:
        content = yaml.load(text, _UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{where}: is not YAML ({str(error).splitlines()[0][:80]})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{source}: must be a mapping of {fields}")
    return content


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, as ``sha256:…``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def differences(existing: dict[str, Any], requested: dict[str, Any]) -> list[str]:
    """Return one phrase for each field in which two records differ.

    Args:
        existing: the record on disk, as a dict.
        requested: the requested record, as a dict.
    """
    before, now = _flatten(existing), _flatten(requested)
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [f"{name} is {_show(before.get(name))}, not {_show(now.get(name))}" for name in names]


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
