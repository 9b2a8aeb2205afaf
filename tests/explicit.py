"""The slow other route: the network with attention written out, so that autograd sees its matrices."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain import Anatomy, Method, describe, explain


@dataclass
class Call:
    """One call of attention: scores and probabilities [B, H, m, n] and values [B, H, n, d], with their graph."""

    scores: Tensor
    matrix: Tensor
    value: Tensor


@dataclass
class Forward:
    """A forward of the written-out network."""

    anatomy: Anatomy
    logits: Tensor
    calls: list[Call]
    inputs: list[Tensor]  # of the attention of each block: norm1 output
    outputs: list[Tensor]  # of each block
    entries: list[Tensor]  # the input of each block
    middles: list[Tensor]  # between attention and MLP of each block

    @property
    def blocks(self) -> list[Call]:
        return self.calls[: self.anatomy.depth]

    @property
    def pool(self) -> Call | None:
        return self.calls[self.anatomy.depth] if self.anatomy.readout == "pool" else None

    def gradients(self, target: int) -> list[Tensor]:
        """∂y_c/∂A of every call."""
        matrices = [call.matrix for call in self.calls]
        return list(torch.autograd.grad(self.logits[:, target].sum(), matrices, retain_graph=True))

    def read(self, rows: Tensor) -> Tensor:
        """Read-out row of [..., n, n] of a block, patch columns: [..., N]."""
        patches = self.anatomy.patch_tokens
        token, mean = rows[..., 0, :], rows[..., patches, :].mean(-2)
        row = {"token": token, "token+mean": (token + mean) / 2}.get(self.anatomy.readout, mean)
        return row[..., patches]

    def read_by_pooler(self, rows: Tensor, product: Tensor) -> Tensor:
        """Rows [B, 1, N] of the pooler times [B, n, n] of the blocks, patch columns: [B, N]."""
        return (rows @ product[..., self.anatomy.read_places, :])[:, 0, self.anatomy.patch_tokens]


@contextmanager
def written_out(calls: list[Call]) -> Iterator[None]:
    """Attention by its formula instead of the fused kernel, noted in ``calls``."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: object) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if attn_mask is not None:
            scores = scores + attn_mask
        matrix = scores.softmax(-1)
        calls.append(Call(scores, matrix, value))
        return matrix @ value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", attention)
        yield


Context = Callable[[list[Call]], AbstractContextManager[None]]


def forward(
    model: nn.Module,
    images: Tensor,
    detach_attention: bool = False,
    detach_blocks: bool = False,
    context: Context = written_out,
) -> Forward:
    """Run the written-out network.

    Args:
        detach_attention: cut the graph at the input of every block's attention.
        detach_blocks: cut it at the input of every block.
        context: writes attention out, and other parts if it likes.
    """
    calls: list[Call] = []
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    entries: list[Tensor] = []
    middles: list[Tensor] = []

    def attended(_: nn.Module, args: tuple, options: dict) -> tuple:
        inputs.append(args[0])
        return ((args[0].detach() if detach_attention else args[0], *args[1:]), options)

    def entered(_: nn.Module, args: tuple, options: dict) -> tuple:
        entries.append(args[0])
        return ((args[0].detach() if detach_blocks else args[0], *args[1:]), options)

    handles = [b.attn.register_forward_pre_hook(attended, with_kwargs=True) for b in model.blocks]
    handles += [b.register_forward_pre_hook(entered, with_kwargs=True) for b in model.blocks]
    handles += [b.register_forward_hook(lambda _, __, output: outputs.append(output)) for b in model.blocks]
    handles += [b.norm2.register_forward_pre_hook(lambda _, args: middles.append(args[0])) for b in model.blocks]
    try:
        with context(calls):
            logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return Forward(describe(model), logits, calls, inputs, outputs, entries, middles)


def classify(model: nn.Module, features: Tensor) -> Tensor:
    """Logits of features, by both classifiers of a distilled network."""
    logits = model.head(features)
    return (logits + model.head_dist(features)) / 2 if hasattr(model, "head_dist") else logits


def class_probabilities(model: nn.Module, logits: Tensor) -> Tensor:
    """Probabilities of the classes: softmax, unless the head says sigmoid."""
    return logits.sigmoid() if getattr(model.head, "activation", "") == "sigmoid" else logits.softmax(-1)


TARGET = 4
"""The class that ``found`` and ``assert_equal`` explain."""


def compute_map(model: nn.Module, images: Tensor, method: str | Method) -> Tensor:
    """Map [B, h, w] of a method."""
    ((_, maps),) = explain(model, images, torch.full((len(images), 1), TARGET), method).items()
    return maps[:, 0]


def assert_equal(model: nn.Module, images: Tensor, method: str | Method, expected: Tensor) -> None:
    maps = compute_map(model, images, method)
    assert (maps - expected.reshape(maps.shape)).abs().max() <= 1e-10 * expected.abs().max()
    assert expected.abs().max() > 0
