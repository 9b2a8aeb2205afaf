"""Weights files as tensors by name. Reading one runs no code."""

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from schemas.errors import UsageError

SUFFIXES = (".safetensors", ".bin", ".pth", ".pth.tar", ".pt", ".ckpt")
"""Endings of files that can be read: safetensors, and what ``torch.save`` writes."""

INDEX = ".safetensors.index.json"
"""Ending of the index of weights in several files."""

_PREFERRED = ("model.safetensors", "pytorch_model.bin")
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")


def find_weights(folder: str) -> str:
    """Return the path of the weights file in a model folder.

    Raises:
        UsageError: there is none, or there are several without one of the usual names.
    """
    names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES))
    names = [name for name in names if (part := _PART.search(name)) is None or int(part[1]) == 1]
    for name in [*_PREFERRED, *(names if len(names) == 1 else [])]:
        if name in names:
            return os.path.join(folder, name)
    if names:
        raise UsageError(f"{folder}: has several weights files ({', '.join(names[:5])}); name one with --checkpoint")
    raise UsageError(f"{folder}: has no weights file; put model.safetensors there, or name one with --checkpoint")


def read_weights(path: str, key: str | None = None) -> dict[str, Tensor]:
    """Read the state dict of a weights file.

    Args:
        path: a file; of weights in several safetensors files any of them, or their index.
        key: name of the state dict in a file of ``torch.save`` that has several, or the first part of the names of the
            tensors to take, such as ``teacher``.

    Raises:
        UsageError: there is no such file, it is none of these formats, it holds objects other than tensors, or tensors
            without values or of a sparse layout, or the key does not say which of its state dicts is meant.
    """
    in_parts = path.endswith(INDEX) or _PART.search(path) is not None
    if not in_parts and not path.endswith(SUFFIXES):
        raise UsageError(f"{path}: is not a weights file; give one that ends in {', '.join(SUFFIXES)}")
    weights = _state_dict(_read_parts(path) if in_parts else _read(path), path, key)
    for name, tensor in weights.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            kind = "has no values (it was saved from the meta device)" if tensor.is_meta else "is sparse"
            raise UsageError(f"{path}: {name!r:.80} {kind}; save plain tensors as .safetensors")
    return weights


def _read(path: str) -> Any:
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options in many training checkpoints
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path") from None
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path}: holds {_objects(path)}, which can run code when they are read; "
            "save its state dict as .safetensors"
        ) from None
    except Exception as error:  # whatever the bytes of a stranger make of a parser
        kind = "safetensors" if path.endswith(".safetensors") else "a file of torch.save"
        reason = str(error).strip().split("\n")[0][:200]
        raise UsageError(f"{path}: cannot be read as {kind} ({reason}); save its state dict as .safetensors") from None


def _read_parts(path: str) -> dict[str, Tensor]:
    """Read weights in several files, found by their names: an index is not read, since it could name any file."""
    folder, name = os.path.split(path)
    stem = name.removesuffix(INDEX) if name.endswith(INDEX) else _PART.sub("", name)
    try:
        names = os.listdir(folder or ".")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; check the path") from None
    parts = {part: entry for entry in names if (part := _PART.search(entry)) and _PART.sub("", entry) == stem}
    counts = {int(part[2]) for part in parts}
    found = {int(part[1]): entry for part, entry in parts.items()}
    if len(counts) != 1 or found.keys() != set(range(1, max(counts) + 1)):
        raise UsageError(f"{path}: {len(parts)} of its files are there, which are not all; get those that are missing")
    weights: dict[str, Tensor] = {}
    for _, entry in sorted(found.items()):
        weights |= _read(os.path.join(folder, entry))
    return weights


def _objects(path: str) -> str:
    """Name the Python objects in a file, as far as torch can tell."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file of old torch, or a broken one
        names = []
    return f"Python objects ({', '.join(sorted(names)[:5])})" if names else "Python objects"


def _state_dict(content: Any, path: str, key: str | None) -> dict[str, Tensor]:
    """Return the state dict that is meant."""
    inner = {name: value for name, value in content.items() if _is_state_dict(value)} if _is_mapping(content) else {}
    if key is None and _is_state_dict(content):
        return dict(content)
    if key is None and len(inner) == 1:
        return dict(*inner.values())
    if key is None and inner:
        names = ", ".join(repr(name)[:80] for name in list(inner)[:5])
        raise UsageError(f"{path}: holds several state dicts ({names}); choose one by --checkpoint-key")
    if key in inner:
        return dict(inner[key])
    dicts = [content] if _is_state_dict(content) else list(inner.values())
    beginning = [{name: weights[name] for name in weights if name.startswith(f"{key}.")} for weights in dicts]
    chosen = [weights for weights in beginning if weights]
    if key is not None and len(chosen) == 1:
        return chosen[0]
    if key is not None and chosen:
        names = ", ".join(repr(name)[:80] for name in list(inner)[:5])
        raise UsageError(f"{path}: {key!r:.80} is in several of its state dicts ({names}); choose one of these")
    if key is not None:
        raise UsageError(f"{path}: has no state dict {key!r:.80}; leave --checkpoint-key out to see what it has")
    raise UsageError(f"{path}: holds no state dict; save one as .safetensors")


def _is_mapping(content: Any) -> bool:
    return isinstance(content, Mapping)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )
