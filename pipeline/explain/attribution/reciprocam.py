"""Recipro-CAM and ViT-ReciproCAM."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, ReplaceAttentionOutput, capture_attention
from pipeline.explain.capture import Capture
from pipeline.explain.method import Method, constant_probability_fault, readout_fault
from pipeline.explain.network import LAST, Network, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods
from pipeline.explain.target_score import target_fault
from pipeline.explain.trace import Trace

Kernel = Literal["gaussian", "peak", "box", "single"]

_KERNELS: dict[str, tuple[tuple[float, ...], ...]] = {
    "gaussian": ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16)),
    "peak": ((1 / 4, 1 / 2, 1 / 4), (1 / 2, 1, 1 / 2), (1 / 4, 1 / 2, 1 / 4)),
    "box": ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "single": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
}

_CHUNK_SIZE = 16384
"""Tokens of one chunk of masked copies in the general form; limits memory, changes nothing else."""


@methods.register
@dataclass(frozen=True)
class ReciproCAM(Method):
    """Probability of the class when only the neighborhood of one patch is visible, for every patch.

    For patch i: W_i = 3×3 kernel centered on i, cut at the border and not renormalized, 0 elsewhere, 1 on
    every other token. The attention of the last block sees W_i · norm1(x), its skip connection carries x
    unmasked; the rest of the network runs as always; E_i = softmax(logits)_c. Zeroed tokens stay in the
    sequence and receive attention. Neither gradients nor attention maps are used.

    Mean read-out (no definition in the paper): the skip connection is masked too; otherwise it would leak
    the whole image. Attention pooler: the tokens after the final norm are masked before the pooler.

    Where one query is read (class token or pooler) no masked copy is made. A token's key and value depend
    on that token and its weight w only, and linearly: score and value under a mask are interpolated at w
    between those of the zeroed and of the plain token (with q/k norm the scores of each weight are computed instead).
    This is exact. The mean read-out, and any block but the last, use the general form: N masked
    copies through the rest of the network, in chunks.

    In a network that is no plain vision transformer the features in front of the read-out are masked, and
    the read-out runs on the N masked grids: Recipro-CAM at the last layer. Where it reads their mean, only the N means
    are computed.

    Options:
        kernel: ``gaussian`` as in the paper (weights ¼, ⅛, 1⁄16), ``peak`` the same scaled to 1 in the
            center, ``box`` all ones, ``single`` the patch alone (the paper's 1×1).
        score: ``softmax`` as in the paper (of a head file its activation, which may be a sigmoid), the raw
            ``logit`` (openvino_xai), which a run that names no methods takes for a softmax of one class, or another
            of the [targets](#targets); ``target`` is another name of this option.
        block: the block whose input is masked, counted from the end: −1 is the last, as in the paper. Earlier
            ones cost N copies of every later block.

    Presets:
        authors_code: block −2, as in the authors' published code. openvino_xai uses logits.
    """

    base_name = "reciprocam"
    multi_target = True
    option_aliases: ClassVar = {"target": "score"}
    paper = "Byun & Lee, ViT-ReciproCAM, 2023 (arXiv 2310.02588); Recipro-CAM, 2022 (arXiv 2209.14074)"
    cost = "≈0.2; mean read-out ≈N/L"
    presets: ClassVar = {"authors_code": {"block": -2}}

    kernel: Kernel = "gaussian"
    score: Literal["softmax", "logit", "contrast_mean", "contrast_max", "logsoftmax", "finer"] = "softmax"
    block: int = -1

    @property
    def requires(self) -> tuple[Requirement, ...]:
        return (Requirement.FEATURES if self.block == -1 else Requirement.ATTENTION,)

    @classmethod
    def default_for(cls, anatomy: Network) -> Self:
        return cls(score="logit") if anatomy.has_constant_probability else cls()

    def needs(self, anatomy: Network) -> Capture:
        return Capture.LAST_BLOCK if self.block == -1 else Capture.TOKENS | Capture.ATTENTION

    def unsupported(self, anatomy: Network) -> str | None:
        if fault := readout_fault(anatomy):
            return fault
        if isinstance(anatomy, Anatomy) and (reason := self._block_fault(anatomy)):
            return reason
        if self.score != "softmax":
            return target_fault(anatomy, self.score)
        fault = constant_probability_fault(anatomy)
        return fault and f"{fault}; or take score=logit"

    def _block_fault(self, anatomy: Anatomy) -> str | None:
        if not -anatomy.depth <= self.block <= -1:
            return f"there is no block {self.block}; choose −1 (the last) to −{anatomy.depth}"
        if anatomy.readout == "pool" and self.block != -1:
            return (
                "with an attention pooler the tokens are masked before the pooler, after every block; leave out block"
            )
        return None

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        if not isinstance(trace, Trace):
            logits = _masked_features(trace, self.kernel)
        elif trace.pooler is not None:
            logits = _masked_pool(trace, trace.pooler, self.kernel)
        elif trace.anatomy.readout == "token" and self.block == -1:
            logits = _masked_token(trace, self.kernel)
        else:
            logits = _masked_copies(trace, self.kernel, self.block)
        return trace.to_grid(trace.target_values(logits, targets, self.score).transpose(1, 2))


@lru_cache(maxsize=32)
def mask_weights(kernel: Kernel, grid: tuple[int, int]) -> Tensor:
    """Compute W: float64 [N, N], row i holds the weights of all patches when patch i is kept.

    Args:
        kernel: name of the 3×3 kernel.
        grid: rows and columns of the patch grid.
    """
    rows, columns = grid
    weights = torch.zeros(rows, columns, rows, columns, dtype=torch.float64)
    for dy, kernel_row in enumerate(_KERNELS[kernel], -1):
        for dx, weight in enumerate(kernel_row, -1):
            for y in range(max(0, -dy), min(rows, rows - dy)):
                for x in range(max(0, -dx), min(columns, columns - dx)):
                    weights[y, x, y + dy, x + dx] = weight
    return weights.reshape(rows * columns, rows * columns)


def _masked_features(trace: NetworkTrace, kernel: Kernel) -> Tensor:
    """Compute logits [B, N, C] of N masked copies of the features in front of the read-out."""
    features, grid = trace.features_at(LAST), trace.anatomy.grid
    weights = mask_weights(kernel, grid).to(features)
    if trace.anatomy.readout == "mean":
        means = torch.einsum("mn,bnd->bmd", weights / len(weights), features)
        return trace.read_features(means.flatten(0, 1)[:, None, None]).unflatten(0, means.shape[:2])
    prefix = trace.prefix_features()
    chunk_size = max(1, _CHUNK_SIZE // (features.shape[0] * features.shape[1]))
    logits = []
    for masks in weights.split(chunk_size):
        copies = (masks[:, None, :, None] * features).flatten(0, 1).unflatten(1, grid)
        copied_prefix = prefix.expand(len(masks), -1, -1, -1).flatten(0, 1)
        logits.append(trace.read_features(copies, copied_prefix).unflatten(0, (len(masks), -1)))
    return torch.cat(logits).transpose(0, 1)


def _masked_attention(trace: Trace, call: AttentionCall, queries: int, kernel: Kernel) -> Tensor:
    """Compute the attention output of the first queries under each of the N masks: [B, N, H, queries, d].

    The queries must not be masked themselves: prefix tokens, or the latent of a pooler.
    """
    rows = slice(0, queries)
    value = call.value.to(call.scores(rows))
    weights = mask_weights(kernel, trace.anatomy.grid).to(value)
    weights = _with_ones(weights, trace, call.tokens)[:, None]  # [N, 1, n]
    hidden = _with_hidden_patches(trace, call)
    if _is_affine(call.module):
        scores = torch.lerp(hidden.scores(rows)[:, :, None], call.scores(rows)[:, :, None], weights)
    else:  # a normalized key is not linear in the weight of its token
        scores = call.scores(rows)[:, :, None].expand(-1, -1, len(weights), -1, -1)
        for level in set(weights.unique().tolist()) - {1.0}:
            level_scores = _with_scaled_patches(trace, call, level).scores(rows)[:, :, None]
            scores = torch.where(weights == level, level_scores, scores)
    attention = scores.softmax(-1)  # [B, H, N, queries, n]
    hidden_value = hidden.value.to(value)
    output = attention.flatten(2, 3) @ hidden_value + (attention * weights).flatten(2, 3) @ (value - hidden_value)
    return output.unflatten(2, (len(weights), queries)).transpose(1, 2)


def _with_ones(weights: Tensor, trace: Trace, tokens: Tensor) -> Tensor:
    """Add the weights of the tokens that are no patches: [M, N] → [M, n]."""
    ones = weights.new_ones(len(weights), tokens.shape[1])
    ones[:, trace.anatomy.patch_tokens] = weights
    return ones


def _with_hidden_patches(trace: Trace, call: AttentionCall) -> AttentionCall:
    """Call the module of an attention again with all patch tokens 0; its output is not that of all tokens.

    Where the place of a token makes no difference, one patch stands for all.
    """
    has_places = call.bias is not None or not all(option is None or option is False for option in call.options.values())
    if has_places or trace.pooler is not None:
        return _with_scaled_patches(trace, call, 0.0)
    patches, places = trace.anatomy.patch_tokens, torch.arange(call.tokens.shape[1], device=call.tokens.device)
    tokens = torch.cat([call.tokens[:, : patches.start + 1], call.tokens[:, patches.stop :]], 1)
    tokens[:, patches.start] = 0
    few = _call_again(trace, call, tokens)
    places = places - (places - patches.start).clamp(0, trace.anatomy.patches - 1)  # among the few
    return replace(few, **{name: getattr(few, name)[:, :, places] for name in ("query", "key", "value")})


def _with_scaled_patches(trace: Trace, call: AttentionCall, level: float) -> AttentionCall:
    """Call the module of an attention again with all patch tokens scaled by ``level``."""
    tokens = call.tokens.clone()
    tokens[:, trace.anatomy.patch_tokens] *= level
    return _call_again(trace, call, tokens)


def _call_again(trace: Trace, call: AttentionCall, tokens: Tensor) -> AttentionCall:
    """Call the module of an attention with other tokens."""
    calls: list[AttentionCall] = []
    with capture_attention(call.module, calls.append), trace.autocast():
        call.module(tokens, **call.options)
    return calls[0]


def _is_affine(module: Any) -> bool:
    """Return whether queries and keys are used as projected; rotating them is linear too."""
    return all(isinstance(getattr(module, name, None), nn.Identity | None) for name in ("q_norm", "k_norm"))


def _masked_token(trace: Trace, kernel: Kernel) -> Tensor:
    """Compute logits [B, N, C] of a class-token read-out by the last layers on the class tokens alone."""
    anatomy, model = trace.anatomy, trace.model
    reads = anatomy.read_tokens
    output = _masked_attention(trace, trace.last_attention, reads, kernel).to(trace.last_attention.output.dtype)
    tokens = trace.block_input(-1)[:, None, :reads].expand(-1, anatomy.patches, -1, -1).flatten(0, 1)
    with trace.autocast():
        with ReplaceAttentionOutput(output.flatten(0, 1)):
            tokens = model.blocks[-1](tokens)
        logits: Tensor = model.forward_head(model.norm(tokens))
    return logits.unflatten(0, (-1, anatomy.patches))


def _masked_pool(trace: Trace, pooler: AttentionCall, kernel: Kernel) -> Tensor:
    """Compute logits [B, N, C] of an attention pooler."""
    anatomy, model = trace.anatomy, trace.model
    output = _masked_attention(trace, pooler, 1, kernel).to(pooler.output.dtype)
    # The pooler runs for its projection and MLP only: its attention output is given, so its input is not used.
    unused = pooler.tokens[:, None, :1].expand(-1, anatomy.patches, -1, -1).flatten(0, 1)
    with trace.autocast(), ReplaceAttentionOutput(output.flatten(0, 1)):
        logits: Tensor = model.forward_head(unused)
    return logits.unflatten(0, (-1, anatomy.patches))


def _masked_copies(trace: Trace, kernel: Kernel, block: int) -> Tensor:
    """Compute logits [B, N, C] by N masked copies of a block's input through the rest of the network, in chunks."""
    anatomy, model = trace.anatomy, trace.model
    block %= anatomy.depth
    tokens, normed = trace.block_input(block), trace.attention(block).tokens
    weights = mask_weights(kernel, anatomy.grid).to(tokens)
    weights = _with_ones(weights, trace, tokens)[:, None, :, None]
    chunk_size = max(1, _CHUNK_SIZE // (tokens.shape[0] * tokens.shape[1]))
    logits = []
    for masks in weights.split(chunk_size):
        skip = masks * tokens if "mean" in anatomy.readout else tokens.expand(len(masks), -1, -1, -1)
        masked = (masks * normed).flatten(0, 1)
        with trace.autocast():
            copies = _with_attention_input(model.blocks[block], skip.flatten(0, 1), masked, trace.block_options[block])
            for later_block in range(block + 1, anatomy.depth):
                copies = model.blocks[later_block](copies, **trace.block_options[later_block])
            logits.append(trace.read_out(copies).unflatten(0, (len(masks), -1)))
    return torch.cat(logits).transpose(0, 1)


def _with_attention_input(block: Any, tokens: Tensor, attention_input: Tensor, options: dict[str, Any]) -> Tensor:
    """Compute the output of a block whose attention sees other tokens than the norm of its input."""
    with block.attn.register_forward_pre_hook(lambda _, args: (attention_input, *args[1:])):
        output: Tensor = block(tokens, **options)
    return output
