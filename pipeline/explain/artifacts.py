"""Files of explainers that have weights of their own: tensors and a card, in safetensors."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from schemas.artifacts import METADATA_KEY, ArtifactRecord
from schemas.errors import UsageError


@dataclass(frozen=True)
class Artifact:
    """What such a file holds.

    Attributes:
        tensors: by name.
        record: its record, or None where it has none.
        digest: SHA-256 of the file.
    """

    tensors: dict[str, Tensor]
    record: ArtifactRecord | None
    digest: str


def write_artifact(path: Path, tensors: dict[str, Tensor], record: ArtifactRecord) -> None:
    """Write an artefact, whole or not at all."""
    put(
        path,
        save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, {METADATA_KEY: record.to_bytes().decode()}
        ),
    )


def put(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, over whatever was there."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def read_artifact(path: str) -> Artifact:
    """An artefact; from memory where the file has not changed since.

    Raises:
        UsageError: there is no such file, or it is none.
    """
    try:
        known = os.stat(path)
        return _read(path, known.st_mtime_ns, known.st_size)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


@lru_cache(maxsize=4)
def _read(path: str, changed: int, size: int) -> Artifact:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – no mapping
    except SafetensorError as error:
        raise UsageError(f"{path}: cannot be read as safetensors ({error})") from None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Artifact(tensors, ArtifactRecord.read(text.encode(), path) if text else None, f"sha256:{digest}")
