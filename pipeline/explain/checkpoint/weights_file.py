"""Weights files as tensors by name. Reading one runs no code."""

import argparse
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from schemas.errors import UsageError

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
"""Endings of files that can be read: safetensors, and what ``torch.save`` writes."""

_PREFERRED = ("model.safetensors", "pytorch_model.bin")


def find_weights(folder: str) -> str:
    """Return the path of the weights file in a model folder.

    Raises:
        UsageError: there is none, or there are several without one of the usual names.
    """
    names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES))
    for name in [*_PREFERRED, *(names if len(names) == 1 else [])]:
        if name in names:
            return os.path.join(folder, name)
    if names:
        raise UsageError(f"{folder}: has several weights files ({', '.join(names[:5])}); name one with --checkpoint")
    raise UsageError(f"{folder}: has no weights file; put model.safetensors there, or name one with --checkpoint")


def read_weights(path: str) -> dict[str, Tensor]:
    """Read the state dict of a weights file; of a file of ``torch.save`` also one inside of a mapping.

    Raises:
        UsageError: there is no such file, it is none of these formats, it holds objects other than tensors, or it
            does not hold exactly one state dict.
    """
    if not path.endswith(SUFFIXES):
        raise UsageError(f"{path}: is not a weights file; give one that ends in {', '.join(SUFFIXES)}")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options in many training checkpoints
            content = torch.load(path, map_location="cpu", weights_only=True)
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
    return _state_dict(content, path)


def _objects(path: str) -> str:
    """Name the Python objects in a file, as far as torch can tell."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file of old torch, or a broken one
        names = []
    return f"Python objects ({', '.join(sorted(names)[:5])})" if names else "Python objects"


def _state_dict(content: Any, path: str) -> dict[str, Tensor]:
    if _is_state_dict(content):
        return dict(content)
    inner = [name for name, value in content.items() if _is_state_dict(value)] if isinstance(content, Mapping) else []
    if len(inner) == 1:
        return dict(content[inner[0]])
    if inner:
        names = ", ".join(repr(name)[:80] for name in inner[:5])
        raise UsageError(f"{path}: holds several state dicts ({names}); save the one to explain as .safetensors")
    raise UsageError(f"{path}: holds no state dict; save one as .safetensors")


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )
