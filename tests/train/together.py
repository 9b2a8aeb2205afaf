"""One of two processes that learn together, without Ray; they import this, so it needs little."""

import torch.distributed as dist

from pipeline.train.start import Prepared, take_part


def as_one_of_two(prepared: Prepared, rank: int, store: str) -> None:
    """Take part in a training.

    Args:
        store: a file for them to meet at.
    """
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        take_part(prepared, "cpu", lambda step, figures: None)
    finally:
        dist.destroy_process_group()
