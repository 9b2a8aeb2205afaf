"""Sums over the blocks of features, on all cores or on a GPU."""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import torch
from torch import Tensor

from pipeline.head.feature_table import FeatureRows

BlockFn = Callable[[Tensor, Tensor], Tensor]
"""Function of the features float32 [m, in] and labels int64 [m] of a block; it may change the features."""

_GROUPS = 16
"""Groups of blocks that are summed side by side; a fixed number, so that a sum is the same on any number of cores."""


def sum_blocks(rows: FeatureRows, device: torch.device, of_block: BlockFn) -> Tensor:
    """Sum a function over all blocks; there must be a row. The result depends on rows and device alone."""
    return reduce_blocks(rows, device, of_block, lambda total, part: total.add_(part))


def concat_blocks(rows: FeatureRows, device: torch.device, of_block: BlockFn) -> Tensor:
    """Concatenate what a function returns for each block, in the order of the rows."""
    return reduce_blocks(rows, device, of_block, lambda total, part: torch.cat([total, part]))


def reduce_blocks(
    rows: FeatureRows, device: torch.device, of_block: BlockFn, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Combine the results of all blocks, in the order of the rows.

    Args:
        rows: features; there must be a row.
        device: that the function computes on.
        of_block: function of a block.
        combine: combines two results; it must be associative, and may change the first.
    """

    def of_index(index: int) -> Tensor:
        features, labels = rows.block(index)
        return of_block(features.to(device), labels.to(device))

    def of_group(blocks: Sequence[int]) -> Tensor:
        return reduce(combine, map(of_index, blocks))

    bounds = [group * rows.block_count // _GROUPS for group in range(_GROUPS + 1)]
    groups = [range(first, end) for first, end in itertools.pairwise(bounds) if first < end]
    threads = min(len(groups), os.cpu_count() or 1) if device.type == "cpu" else 1
    if threads == 1:  # a pool takes longer than few rows
        return reduce(combine, map(of_group, groups))
    with ThreadPoolExecutor(threads) as pool:
        return reduce(combine, list(pool.map(of_group, groups)))
