"""One recorded forward of a batch, from which every method takes what it needs.

Recording does not change the forward: attention stays fused. A ``TorchFunctionMode`` sees each call of
``scaled_dot_product_attention`` with the queries, keys and values that the network really used (after q/k
norm and rotary embedding), and attention matrices are made from them later, only where a method needs one.
The mode belongs to the thread, so traces in several threads do not meet.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.explain.anatomy import Anatomy


class Need(Flag):
    """What a method needs recorded beside the last attention before the read-out."""

    LAST = 0
    ATTENTION = auto()
    """queries and keys of every block"""
    TAILS = auto()
    """outputs of every block with a graph back to the attention output of that block, and no further"""
    TOKENS = auto()
    """outputs of every block"""


@dataclass
class Attention:
    """One call of attention. m queries, n keys, H heads of d channels.

    Attributes:
        query: [B, H, m, d].  key, value: [B, H, n, d].
        output: [B, H, m, d]; a leaf of the graph where the trace records tails.
        bias: what is added to the scores, broadcastable to [B, H, m, n], or None.
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    bias: Tensor | None
    scale: float

    def probabilities(self, queries: slice = slice(None)) -> Tensor:
        """The attention matrix, or some rows of it: [B, H, m, n], rows sum to 1."""
        scores = self.query[:, :, queries] @ self.key.transpose(-1, -2) * self.scale
        if self.bias is not None:
            bias = self.bias.expand(-1, -1, self.query.shape[2], -1)
            scores = scores + bias[:, :, queries]
        return scores.softmax(-1)


@dataclass
class Site:
    """A module that attends, the call that it got, and what its attention did.

    Attributes:
        module: the attention or the pooler.
        tokens: [B, n, D], what it was called with (a block's ``norm1`` output).
        options: keyword arguments of that call.
        attention: the recorded attention.
    """

    module: nn.Module
    tokens: Tensor
    options: dict[str, Any]
    attention: Attention


@dataclass
class Trace:
    """A recorded forward.

    Attributes:
        model, anatomy: the network.
        images: [B, 3, H, W], preprocessed.
        logits: [B, C].
        blocks: the attention of each block; all but the last are empty without ``Need.ATTENTION`` or
            ``Need.TAILS``.
        last_input: [B, n, D], input of the last block.
        outputs: [B, n, D] of each block, where asked for.
        pool: the attention pooler, where the read-out is one.
        keys: a name for each image, from which methods that draw at random take their seed.
        seed: of the run, likewise.
    """

    model: Any
    anatomy: Anatomy
    images: Tensor
    keys: tuple[str, ...]
    seed: int
    logits: Tensor = field(init=False)
    last_input: Tensor = field(init=False)
    blocks: list[Site | None] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    pool: Site | None = None

    @property
    def last(self) -> Site:
        """The last block's attention."""
        site = self.blocks[-1]
        assert site is not None
        return site

    def site(self, block: int) -> Site:
        """A block's attention; only where the trace was asked for it."""
        site = self.blocks[block]
        assert site is not None, "the method did not declare this need"
        return site

    def grid(self, patches: Tensor) -> Tensor:
        """[B, N] → [B, h, w]."""
        return patches.reshape(-1, *self.anatomy.grid)

    def classify(self, vector: Tensor) -> Tensor:
        """Logits [B, C] of one token vector [B, D]: final norm, ``fc_norm``, classifier.

        A distilled network has two classifiers; their mean is taken, as it does in evaluation.
        """
        vector = self.model.fc_norm(self.model.norm(vector))
        logits: Tensor = self.model.head(vector)
        if hasattr(self.model, "head_dist"):
            logits = (logits + self.model.head_dist(vector)) / 2
        return logits


def record(model: nn.Module, anatomy: Anatomy, images: Tensor, need: Need, keys: tuple[str, ...], seed: int) -> Trace:
    """Run one forward and record it. Call it inside ``undisturbed(model)``.

    Args:
        images: [B, 3, H, W], preprocessed, of the network's dtype and device.
        need: what the methods ask for, united.
        keys, seed: see ``Trace``.
    """
    trace = Trace(model, anatomy, images, keys, seed)
    parts: Any = model
    blocks = list(parts.blocks)
    tails = bool(need & Need.TAILS) and anatomy.readout != "pool"
    keep_all = bool(need & (Need.ATTENTION | Need.TAILS))
    keep_outputs = bool(need & (Need.TAILS | Need.TOKENS))

    def after_block(index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            if keep_outputs:
                trace.outputs.append(output)
            return output.detach()

        return hook

    def before_last(module: nn.Module, args: Any) -> None:
        trace.last_input = args[0]

    def keep(index: int) -> Callable[[Site], None]:
        def take(site: Site) -> None:
            trace.blocks.append(site if keep_all or index == len(blocks) - 1 else None)

        return take

    def keep_pool(site: Site) -> None:
        trace.pool = site

    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            stack.enter_context(watch(block.attn, keep(index), leaf=tails))
            stack.enter_context(_hook(block.register_forward_hook(after_block(index))))
        stack.enter_context(_hook(blocks[-1].register_forward_pre_hook(before_last)))
        if anatomy.readout == "pool":
            stack.enter_context(watch(parts.attn_pool, keep_pool))
        with torch.set_grad_enabled(tails):
            trace.logits = model(images).detach()
    return trace


@contextmanager
def watch(module: nn.Module, take: Callable[[Site], None], leaf: bool = False) -> Iterator[None]:
    """Hand each call of a module that attends to ``take``, as a ``Site``.

    Args:
        leaf: cut the graph at the attention output and let a new one begin there.
    """
    mode = _Capture(leaf)

    def before(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        mode.__enter__()
        mode.call = (args[0], options)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        mode.__exit__(None, None, None)
        assert mode.call is not None
        assert mode.attention is not None, "the module attends by other means than fused attention"
        take(Site(module, mode.call[0], mode.call[1], mode.attention))
        mode.call = mode.attention = None

    fused: Any = module
    was_fused, fused.fused_attn = fused.fused_attn, True
    try:
        with (
            _hook(module.register_forward_pre_hook(before, with_kwargs=True)),
            _hook(module.register_forward_hook(after)),
        ):
            yield
    finally:
        fused.fused_attn = was_fused
        if mode.call is not None:  # the module raised in the middle of a call
            mode.__exit__(None, None, None)


class _Capture(TorchFunctionMode):
    """Sees fused attention while its module runs."""

    def __init__(self, leaf: bool) -> None:
        super().__init__()
        self.leaf = leaf
        self.call: tuple[Tensor, dict[str, Any]] | None = None
        self.attention: Attention | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not F.scaled_dot_product_attention:
            return result
        query, key, value = args[:3]
        if self.leaf:
            result = result.detach().requires_grad_()
        bias = kwargs.get("attn_mask")
        scale = kwargs.get("scale") or query.shape[-1] ** -0.5
        self.attention = Attention(query, key, value, result, bias, scale)
        return result


class Substitute(TorchFunctionMode):
    """Puts a given tensor in the place of the output of fused attention.

    With it a block runs on the few tokens that a method asks about, while what they attended to was
    computed elsewhere; projection, residual and MLP stay the network's own code.
    """

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.output
        return func(*args, **(kwargs or {}))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients, and everything as it was afterwards."""
    training = [(module, module.training) for module in model.modules()]
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in learning:
            parameter.requires_grad_(False)
        with torch.inference_mode(False):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for parameter, learns in learning:
            parameter.requires_grad_(learns)


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
