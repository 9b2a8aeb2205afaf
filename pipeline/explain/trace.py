"""A recorded forward of a plain vision transformer, which does not change it, with its attention and tokens."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, ReplaceAttentionOutput, capture_attention, upcast
from pipeline.explain.batch_norm import order_batch_norm_gradients
from pipeline.explain.capture import ORDINARY, BackwardPass, Capture, Gradients, LinearCall
from pipeline.explain.network_trace import NetworkTrace, gather_class_values
from pipeline.explain.readout import classifier_logits, patch_logits, token_features
from pipeline.explain.rule_mode import RuleMode
from schemas.run import Precision


@dataclass
class Trace(NetworkTrace):
    """A recorded forward of a plain vision transformer.

    Attributes:
        embedding: [B, N, D] or [B, h, w, D], output of the patch embedding.
        last_output: [B, n, D], output of the last block.
        first_blocks: the first block of which attention, tokens and graph were recorded; 0 where it is not named.
        attention_calls: attention of each block; None where it was not recorded, which the last one always is.
        block_inputs: [B, n, D] of each block, likewise.
        block_options: keyword arguments of the calls of these blocks, by block.
        linear_calls: linear layers of each block by name; empty without ``Capture.LINEAR_LAYERS``.
        pooler: call of the attention pooler, or None where the read-out has none.
    """

    anatomy: Anatomy
    first_blocks: Mapping[Capture, int] = field(default_factory=dict)
    embedding: Tensor = field(init=False)
    last_output: Tensor = field(init=False)
    attention_calls: list[AttentionCall | None] = field(default_factory=list)
    _mean_attention: dict[int, Tensor] = field(default_factory=dict)  # of the blocks whose attention is not kept
    block_inputs: list[Tensor | None] = field(default_factory=list)
    block_options: dict[int, dict[str, Any]] = field(default_factory=dict)
    linear_calls: list[dict[str, LinearCall]] = field(default_factory=list)
    pooler: AttentionCall | None = None
    _middles: dict[int, Tensor] = field(default_factory=dict)  # the input of norm2, by block
    _hidden_means: dict[int, Tensor] = field(default_factory=dict)  # the mean of the input of fc2, without registers

    def records(self, what: Capture, block: int) -> bool:
        """Return whether attention, tokens or graph of a block are recorded."""
        return what in self.capture and block >= self.first_blocks.get(what, 0)

    @property
    def last_attention(self) -> AttentionCall:
        """Attention of the last block."""
        return self.attention(-1)

    def attention(self, block: int) -> AttentionCall:
        """Return the attention of a block."""
        call = self.attention_calls[block]
        assert call is not None, "the method did not declare that it needs the attention of every block"
        return call

    def mean_attention(self, block: int) -> Tensor:
        """Return the mean over heads of the attention matrix of a block: [B, n, n], rows sum to 1."""
        mean = self._mean_attention.get(block)
        return self.attention(block).mean_probabilities() if mean is None else mean

    def block_input(self, block: int) -> Tensor:
        """Return the input of a block: [B, n, D]."""
        tokens = self.block_inputs[block]
        assert tokens is not None, "the method did not declare that it needs the tokens of every block"
        return tokens

    def block_output(self, block: int) -> Tensor:
        """Return the output of a block: [B, n, D]."""
        return self.last_output if block == self.anatomy.depth - 1 else self.block_input(block + 1)

    def block_middle(self, block: int) -> Tensor:
        """Return the tokens between attention and MLP of a block: [B, n, D]; needs ``Capture.GRAPH``."""
        return self._middles[block]

    def read_out(self, tokens: Tensor) -> Tensor:
        """Compute logits [B, C] of tokens after the last block: [B, n, D], or only those that are read."""
        logits: Tensor = self.model.forward_head(self.model.norm(tokens[:, self.anatomy.read_places]))
        return logits

    def features(self, tokens: Tensor) -> Tensor:
        """Compute the input of the classifier from single tokens [..., D]; see ``token_features``."""
        with self.autocast():
            return token_features(self.model, self.anatomy, tokens)

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits [..., C] of features [..., D]; of a distilled network the mean of its two classifiers."""
        with self.autocast():
            return classifier_logits(self.model, features)

    def features_at(self, name: str) -> Tensor:
        return self.last_attention.tokens[:, self.anatomy.patch_tokens].to(self.images.dtype)

    def feature_gradients(self, name: str, targets: Tensor, backward_pass: BackwardPass = ORDINARY) -> Tensor:
        gradient = self.gradients(targets, backward_pass).last_tokens
        assert gradient is not None
        return gradient[:, self.anatomy.patch_tokens].to(self.images.dtype)

    def patch_logits(self) -> Tensor:
        with self.autocast():
            logits = patch_logits(self.model, self.anatomy, self.last_output[:, self.anatomy.patch_tokens])
        return logits.to(self.images.dtype)

    def position_shares(self, targets: Tensor) -> Tensor:
        constant = self.classify(self.images.new_zeros(1, self.anatomy.width))[0].to(self.images.dtype)
        return gather_class_values(self.patch_logits() - constant, targets)

    def rule_mode(self) -> AbstractContextManager[None]:
        blocks, pooler = list(self.model.blocks), getattr(self.model, "attn_pool", None)
        attention, tokens = [block.attn for block in blocks], [*blocks, self.model.norm]
        if pooler is not None:
            attention += [pooler.q, pooler.kv, pooler.proj]
            tokens.append(pooler.kv)
        return RuleMode(self.rules).on(self.model, attention, tokens)

    def mean_block_output(self, block: int) -> Tensor:
        """Compute the mean over all n tokens of a block's output but test-time registers, with the graph: [B, D].

        Needs ``Capture.MEAN_OUTPUTS``.

        The last layer of the MLP is linear, so the mean of its outputs is its output for the mean: one token
        passes through it instead of n, forward and backward.
        """
        module = self.model.blocks[block]
        with self.autocast():
            branch = module.mlp.fc2(self._hidden_means[block])
        if getattr(module, "gamma_2", None) is not None:
            branch = module.gamma_2 * branch
        elif hasattr(module, "ls2"):
            branch = module.ls2(branch)
        return self._middles[block][:, self.anatomy.read_places].mean(1) + branch

    def _differentiated(self, capture: Capture) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = {}
        if Capture.LAST_GRADIENTS in capture:
            inputs["last_tokens"] = self.last_attention.tokens
            for index, call in enumerate(self.attention_calls):
                wanted = Capture.ATTENTION_GRADIENTS in capture or index == self.anatomy.depth - 1
                if call is not None and wanted:
                    inputs[f"attention {index}"] = call.output
            if self.pooler is not None:
                inputs["pooler"] = self.pooler.output
        if Capture.IMAGE_GRADIENTS in capture:
            inputs["images"] = self.images
        if Capture.EMBEDDING_GRADIENTS in capture:
            inputs["embedding"] = self.embedding
        if Capture.TOKEN_GRADIENTS in capture:
            assert self.rules.bias_sums is not None
            inputs["biases"] = self.rules.bias_sums
            inputs |= {f"block {index}": self.block_input(index) for index in range(self.anatomy.depth)}
        return inputs

    def _collect(self, gradients: dict[str, Tensor]) -> Gradients:
        return Gradients(
            [gradients.get(f"attention {index}") for index in range(self.anatomy.depth)],
            block_inputs=[gradient for name, gradient in gradients.items() if name.startswith("block ")],
            pooler=gradients.get("pooler"),
            last_tokens=gradients.get("last_tokens"),
            images=gradients.get("images"),
            embedding=gradients.get("embedding"),
            biases=gradients.get("biases"),
        )


def record_forward(
    model: nn.Module,
    anatomy: Anatomy,
    images: Tensor,
    capture: Capture,
    keys: Sequence[str],
    seed: int,
    precision: Precision = "full",
    passes: Mapping[BackwardPass, Capture] | None = None,
    first_blocks: Mapping[Capture, int] | None = None,
) -> Trace:
    """Run one forward and record it. Call it inside ``preserve_model_state(model)``.

    The graph begins at the images or the embedding where their gradient is asked for, otherwise at the input of a
    block: what runs in front of it is not kept in memory.

    Args:
        model: the network.
        anatomy: its description.
        images: [B, 3, H, W], preprocessed, of the network's dtype and device.
        capture: union of what the methods need.
        keys: see ``Trace``.
        seed: see ``Trace``.
        precision: see ``explain``.
        passes: see ``Trace``.
        first_blocks: see ``Trace``.
    """
    graph = Capture.GRAPH in capture
    images = images.clone() if images.is_inference() else images.detach()
    trace = Trace(model, anatomy, images, capture, keys, seed, precision, passes=passes or {})
    trace.first_blocks = first_blocks or {}
    images.requires_grad_(Capture.IMAGE_GRADIENTS in capture)
    if Capture.TOKEN_GRADIENTS in capture:
        trace.rules.bias_sums = upcast(images).new_zeros(len(images), anatomy.tokens).requires_grad_()
    trace.attention_calls, trace.block_inputs = [None] * anatomy.depth, [None] * anatomy.depth
    parts: Any = model
    last = anatomy.depth - 1

    def after_embedding(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if Capture.EMBEDDING_GRADIENTS in capture and not output.requires_grad:
            output = output.detach().requires_grad_()
        trace.embedding = output
        return output

    def before_block(index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            tokens = args[0]
            if trace.records(Capture.GRAPH, index) and not tokens.requires_grad:
                tokens = tokens.detach().requires_grad_()
            if trace.records(Capture.TOKENS, index) or index == last:
                trace.block_inputs[index], trace.block_options[index] = tokens, options
            return (tokens, *args[1:]), options

        return hook

    def after_attention(index: int) -> Callable[[AttentionCall], None]:
        # A graph keeps queries, keys and values anyway; under rules nothing else is computed in the forward.
        recorded = trace.records(Capture.ATTENTION, index) or trace.records(Capture.GRAPH, index)
        kept = recorded or Capture.RULES in capture or index == last

        def on_call(call: AttentionCall) -> None:
            if kept:
                trace.attention_calls[index] = call
                return
            with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
                trace._mean_attention[index] = call.mean_probabilities()

        return on_call

    def after_pooler(call: AttentionCall) -> None:
        trace.pooler = call

    def before_norm2(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            trace._middles[index] = args[0]

        return hook

    def before_fc2(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            # Its graph does not hold the [B, n, hidden] that it is of.
            trace._hidden_means[index] = args[0][:, anatomy.read_places].mean(1)

        return hook

    def after_linear(index: int, name: str) -> Callable[..., None]:
        def hook(module: nn.Linear, args: tuple[Any, ...], output: Tensor) -> None:
            trace.linear_calls[index][name] = LinearCall(module.weight, module.bias, args[0], output)

        return hook

    def after_last_block(module: nn.Module, args: Any, output: Tensor) -> None:
        trace.last_output = output

    with ExitStack() as stack:
        stack.enter_context(trace.rules_as_captured())
        stack.enter_context(parts.patch_embed.register_forward_hook(after_embedding))
        for index, block in enumerate(parts.blocks):
            if trace.records(Capture.TOKENS, index) or trace.records(Capture.GRAPH, index) or index == last:
                stack.enter_context(block.register_forward_pre_hook(before_block(index), with_kwargs=True))
            if trace.records(Capture.ATTENTION, index) or Capture.MEAN_ATTENTION in capture or index == last:
                stack.enter_context(capture_attention(block.attn, after_attention(index)))
            if trace.records(Capture.GRAPH, index):
                stack.enter_context(block.norm2.register_forward_pre_hook(before_norm2(index)))
                if trace.records(Capture.MEAN_OUTPUTS, index):
                    stack.enter_context(block.mlp.fc2.register_forward_pre_hook(before_fc2(index)))
            if Capture.LINEAR_LAYERS in capture:
                trace.linear_calls.append({})
                for name in ("qkv", "proj", "fc1", "fc2"):
                    layer = getattr(block.attn, name, None) or getattr(block.mlp, name)
                    stack.enter_context(layer.register_forward_hook(after_linear(index, name)))
        stack.enter_context(parts.blocks[-1].register_forward_hook(after_last_block))
        if anatomy.readout == "pool":
            stack.enter_context(capture_attention(parts.attn_pool, after_pooler))
        with torch.set_grad_enabled(graph), trace.autocast():
            trace._scores = model(images)
    trace.logits = trace._scores.detach()
    if graph and anatomy.readout == "token":
        trace._scores = _scores_of_read_tokens(trace)
    if Capture.IMAGE_GRADIENTS in capture:  # they pass the patch embedding, which may have batch norms
        order_batch_norm_gradients(trace._scores)
    return trace


def _scores_of_read_tokens(trace: Trace) -> Tensor:
    """Recompute the logits behind the last attention from only the tokens that the classifier reads.

    A backward from here does not carry the zeros of all other tokens through the last block.
    """
    reads, model = trace.anatomy.read_tokens, trace.model
    with torch.enable_grad(), trace.autocast(), trace.rules_as_captured():
        with ReplaceAttentionOutput(trace.last_attention.output[:, :, :reads]):
            tokens = model.blocks[-1](trace.block_input(-1)[:, :reads])
        return trace.read_out(tokens)
