"""Several processes that learn together: which one this is, and what they agree on. Alone, all of it is nothing."""

from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def shared(module: nn.Module) -> nn.Module:
    """A module whose gradients are the mean over all processes, and whose weights begin as those of the first."""
    # Which probes of Vision DiffMask a step uses depends on its depth.
    return DistributedDataParallel(module, find_unused_parameters=True) if ranks() > 1 else module


def mean(figures: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Each figure's mean over the processes."""
    if ranks() == 1:
        return dict(figures)
    values = torch.tensor(list(figures.values()), device=device, dtype=torch.float32)
    dist.all_reduce(values)
    return dict(zip(figures, (values / ranks()).tolist(), strict=True))


def of_first(value: T) -> T:
    """What the first process has."""
    if ranks() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]
