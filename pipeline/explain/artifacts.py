"""Artifacts: weights of learned methods and their record, in one safetensors file."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.utils.atomic_write import write_atomically
from pipeline.utils.local_file import file_sha256
from schemas.artifacts import METADATA_KEY, ArtifactRecord
from schemas.errors import UsageError


@dataclass(frozen=True)
class Artifact:
    """Contents of an artifact.

    Attributes:
        tensors: by name.
        record: metadata, or None where it has none.
        digest: SHA-256 of the file.
    """

    tensors: dict[str, Tensor]
    record: ArtifactRecord | None
    digest: str


def write_artifact(path: Path, tensors: dict[str, Tensor], record: ArtifactRecord) -> None:
    """Write an artifact atomically."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(str(path), save(contiguous, {METADATA_KEY: record.to_bytes().decode()}))


def read_artifact(path: str) -> Artifact:
    """Read an artifact; from memory if the file has not changed since.

    Raises:
        UsageError: there is no such file, or it is not safetensors.
    """
    try:
        status = os.stat(path)
        return _read_cached(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


@lru_cache(maxsize=4)
def _read_cached(path: str, modified_ns: int, size: int) -> Artifact:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 – no mapping
    except SafetensorError as error:
        raise UsageError(f"{path}: cannot be read as safetensors ({error})") from None
    return Artifact(tensors, ArtifactRecord.read(text.encode(), path) if text else None, file_sha256(path))
