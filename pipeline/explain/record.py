"""One forward of a batch, recorded. Recording does not change it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, ReplaceAttentionOutput, capture_attention
from pipeline.explain.trace import Capture, LinearCall, Trace
from schemas.run import Precision


def record(
    model: nn.Module,
    anatomy: Anatomy,
    images: Tensor,
    need: Capture,
    keys: tuple[str, ...],
    seed: int,
    precision: Precision = "full",
) -> Trace:
    """Run one forward and record it. Call it inside ``undisturbed(model)``.

    Args:
        images: [B, 3, H, W], preprocessed, of the network's dtype and device.
        need: what the methods ask for, united.
        keys, seed, precision: see ``Trace``.
    """
    graph = Capture.GRAPH in need
    images = (images.clone() if images.is_inference() else images.detach()).requires_grad_(graph)
    trace = Trace(model, anatomy, images, need, keys, seed, precision)
    parts: Any = model
    last = anatomy.depth - 1

    def embedded(module: nn.Module, args: Any, output: Tensor) -> None:
        trace.embedding = output

    def before_block(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            trace.inputs.append(args[0] if Capture.TOKENS in need or index == last else None)
            trace.options.append(options)

        return hook

    def attended(index: int) -> Callable[[AttentionCall], None]:
        def take(site: AttentionCall) -> None:
            trace.blocks.append(site if Capture.ATTENTION in need or index == last else None)

        return take

    def pooled(site: AttentionCall) -> None:
        trace.pool = site

    def before_mlp(module: nn.Module, args: tuple[Any, ...]) -> None:
        trace._middles.append((args[0], args[0]))

    def before_fc2(module: nn.Module, args: tuple[Any, ...]) -> None:
        trace._middles[-1] = (trace._middles[-1][0], args[0])

    def through(index: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Linear, args: tuple[Any, ...], output: Tensor) -> None:
            trace.linears[index][name] = LinearCall(module, args[0], output)

        return hook

    def after_last(module: nn.Module, args: Any, output: Tensor) -> None:
        trace.last_output = output

    with ExitStack() as stack:
        if Capture.CONSERVING in need:
            stack.enter_context(trace.rules)
        stack.enter_context(parts.patch_embed.register_forward_hook(embedded))
        for index, block in enumerate(parts.blocks):
            stack.enter_context(block.register_forward_pre_hook(before_block(index), with_kwargs=True))
            stack.enter_context(capture_attention(block.attn, attended(index)))
            if graph:
                stack.enter_context(block.norm2.register_forward_pre_hook(before_mlp))
                stack.enter_context(block.mlp.fc2.register_forward_pre_hook(before_fc2))
            if Capture.LINEARS in need:
                trace.linears.append({})
                for name in ("qkv", "proj", "fc1", "fc2"):
                    layer = getattr(block.attn, name, None) or getattr(block.mlp, name)
                    stack.enter_context(layer.register_forward_hook(through(index, name)))
        stack.enter_context(parts.blocks[-1].register_forward_hook(after_last))
        if anatomy.readout == "pool":
            stack.enter_context(capture_attention(parts.attn_pool, pooled))
        with torch.set_grad_enabled(graph), trace.network():
            trace._scores = model(images)
    trace.logits = trace._scores.detach()
    if graph and anatomy.readout == "token":
        trace._scores = _scores_of_read_tokens(trace)
    return trace


def _scores_of_read_tokens(trace: Trace) -> Tensor:
    """The logits once more, behind the last attention on the tokens alone that the classifier reads.

    A backward from here does not carry the zeros of all other tokens through the last block.
    """
    reads, model = trace.anatomy.read_tokens, trace.model
    with torch.enable_grad(), trace.network(), ExitStack() as stack:
        if Capture.CONSERVING in trace.need:
            stack.enter_context(trace.rules)
        with ReplaceAttentionOutput(trace.last.attention.output[:, :, :reads]):
            tokens = model.blocks[-1](trace.input(-1)[:, :reads])
        scores: Tensor = model.forward_head(model.norm(tokens))
    return scores
