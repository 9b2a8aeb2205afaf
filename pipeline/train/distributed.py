"""Helpers for ``torch.distributed``: rank, world size, all-reduce, broadcast. No-ops in a single process."""

from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap_ddp(module: nn.Module) -> nn.Module:
    """Wrap a module so that gradients are averaged over all processes, and weights start as those of rank 0."""
    # The probes of Vision DiffMask that a step uses depend on its depth.
    return DistributedDataParallel(module, find_unused_parameters=True) if world_size() > 1 else module


def all_reduce_mean(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Return the mean of each value over the processes.

    Args:
        values: values by name; all processes have the same names.
        device: device of the communication.
    """
    if world_size() == 1:
        return dict(values)
    tensor = torch.tensor(list(values.values()), device=device, dtype=torch.float32)
    dist.all_reduce(tensor)
    return dict(zip(values, (tensor / world_size()).tolist(), strict=True))


def broadcast_object(value: T) -> T:
    """Return the value of rank 0."""
    if world_size() == 1:
        return value
    objects = [value]
    dist.broadcast_object_list(objects)
    return objects[0]
