"""Base of all records: immutable, nothing unknown accepted, one way to bytes and to a hash."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import UsageError
from schemas.text import suggest

_FIELDS = "has fields of its own, as in {kind: …}"
_SAID = {
    "tuple_type": "is a list, as in [a, b]",
    "model_type": _FIELDS,
    "model_attributes_type": _FIELDS,
}
"""What is wrong, for people who do not know what a tuple or a model is."""


class Record(BaseModel):
    """A value that is written to disk as JSON, or read from a user as YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """Indented JSON in the order of the fields. Equal records give equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1) + "\n").encode()

    def digest(self) -> str:
        """SHA-256 of the record, as ``sha256:…``."""
        return sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode())

    @classmethod
    def read(cls, data: bytes | dict[str, Any], source: str) -> Self:
        """Parse a record.

        Args:
            data: JSON bytes, or what a YAML parser gave.
            source: the name to put in front of what is wrong.

        Raises:
            UsageError: it does not fit; the message names the source, the field and the reason.
        """
        try:
            if isinstance(data, bytes):
                return cls.model_validate_json(data)
            return cls.model_validate(data)
        except ValidationError as error:
            # A field that is not known is often the reason why another one is missing.
            first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
            field = ".".join(str(part) for part in first["loc"])
            reason = _SAID.get(first["type"], first["msg"].removeprefix("Value error, "))
            if first["type"] == "extra_forbidden":
                there = cls._fields_at(first["loc"][:-1])
                hint = suggest(str(first["loc"][-1]), there)
                reason = f"there is no such field; there are {', '.join(there)}{hint}"
            raise UsageError(": ".join(filter(None, (source, field, reason)))) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a record from a YAML file.

        Raises:
            UsageError: there is no such file, it is not YAML, or does not fit.
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
        """Names of the fields of the record that a path of fields leads to."""
        records: list[Any] = [cls]
        for part in path:
            inner = [each.model_fields[part].annotation for each in records if part in each.model_fields]
            if inner:
                records = [each for kind in inner for each in _records_in(kind)]
            else:  # an index, or which of several records it is
                records = [each for each in records if part in _tags(each)] or records
        return [name for each in records for name in each.model_fields]


def _records_in(kind: Any) -> list[Any]:
    """Records in a type such as ``A | B | None`` or ``tuple[A, ...]``."""
    if hasattr(kind, "model_fields"):
        return [kind]
    return [each for part in get_args(kind) for each in _records_in(part)]


def _tags(record: Any) -> tuple[Any, ...]:
    """What the field ``kind`` of a record may be."""
    field = record.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def mapping(text: str, source: str, fields: str) -> dict[str, Any]:
    """The content of a YAML file that is a mapping.

    Raises:
        UsageError: it is not; ``fields`` says what it should have.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{where}: is not YAML ({str(error).splitlines()[0][:80]})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{source}: must be a mapping of {fields}")
    return content


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, as ``sha256:…``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def differences(there: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What is asked for otherwise than it is there, one phrase for each field; records as dicts."""
    before, now = _flat(there), _flat(wanted)
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [f"{name} is {before.get(name)!r}, not {now.get(name)!r}" for name in names]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
