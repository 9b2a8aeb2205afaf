"""Hash of the weights of a network, the same for every file format and precision."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.explain.head_modules import attached_module


def weights_hash(model: nn.Module) -> str:
    """Compute SHA-256 over all tensors of a network, and over what its head and test-time registers add to them."""
    head = attached_module(model)
    digest = head.digest if head else ""
    registers = getattr(getattr(model, "blocks", None), "record", None)
    return hash_tensors(model.state_dict(), digest + (registers.hash if registers else ""))


def hash_tensors(tensors: Mapping[str, Tensor], more: str = "") -> str:
    """Compute SHA-256 over tensors: name, dtype, shape and bytes of each, in the order of the names.

    Floating-point tensors are converted to float32, so that the hash does not depend on the precision.

    Args:
        tensors: by name.
        more: text that is hashed too.
    """
    digest = hashlib.sha256(more.encode())
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return "sha256:" + digest.hexdigest()
