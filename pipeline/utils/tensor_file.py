"""Deterministic safetensors files: equal tensors and metadata give equal bytes."""

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

_ALIGNMENT = 8
"""Bytes; the length of a header is a multiple."""


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return tensors as safetensors, with the names in the header sorted; the library writes metadata in random order.

    Args:
        tensors: by name.
        metadata: text by name.
    """
    data = save(dict(tensors), dict(metadata))
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
