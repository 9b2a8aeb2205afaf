"""ViT-ReciproCAM."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import Attention, AttentionCall, ReplaceAttentionOutput, capture_attention
from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Capture, Trace, select_classes

Kernel = Literal["gaussian", "peak", "box", "single"]

_KERNELS: dict[str, tuple[tuple[float, ...], ...]] = {
    "gaussian": ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16)),
    "peak": ((1 / 4, 1 / 2, 1 / 4), (1 / 2, 1, 1 / 2), (1 / 4, 1 / 2, 1 / 4)),
    "box": ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "single": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
}

_TOKENS_AT_ONCE = 16384
"""Tokens of one chunk of masked copies in the general form; bounds its memory, changes nothing else."""


@methods.register
@dataclass(frozen=True)
class ReciproCAM(Method):
    """Probability of the class when only the neighbourhood of one patch is left, patch after patch.

    For patch i: W_i = 3×3 kernel centred on i, cut at the border and not renormalised, 0 elsewhere, 1 on
    every prefix token. The attention of the last block sees W_i · norm1(x), its skip connection carries x
    unmasked; the rest of the network runs as always; E_i = softmax(logits)_c. Zeroed tokens stay in the
    sequence and are attended to. Neither gradients nor attention maps are used.

    Mean read-out (no definition in the paper): the skip connection is masked too, or it would leak the
    whole image. Attention pooler: the tokens after the final norm are masked in front of the pooler.

    Where one query is read (class token or pooler) no masked copy is made. A token's key and value depend
    on that token and its weight w only, and linearly: score and value under a mask lie at w between those
    of the zeroed and of the plain token (with q/k norm the scores of each weight are computed instead).
    This is exact. The mean read-out, and any block but the last, take the general form: N masked copies through
    the rest, in chunks.

    Options:
        kernel: ``gaussian`` as in the paper (weights ¼, ⅛, 1⁄16), ``peak`` the same scaled to 1 in the
            middle, ``box`` all ones, ``single`` the patch alone (the paper's 1×1).
        score: ``softmax`` as in the paper, or the raw ``logit`` (openvino_xai).
        block: whose input is masked, counted from the end: −1 is the last, as in the paper. Earlier ones
            cost N copies of every block behind.

    Presets:
        authors_code: block −2, as the authors' published code does it. openvino_xai takes logits.
    """

    base_name = "reciprocam"
    multi_target = True
    paper = "Byun & Lee, ViT-ReciproCAM, arXiv 2310.02588"
    cost = "≈0.2; mean read-out ≈N/L"
    presets: ClassVar = {"authors_code": {"block": -2}}

    kernel: Kernel = "gaussian"
    score: Literal["softmax", "logit"] = "softmax"
    block: int = -1

    def needs(self, anatomy: Anatomy) -> Capture:
        return Capture.LAST if self.block == -1 else Capture.TOKENS | Capture.ATTENTION

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if not -anatomy.depth <= self.block <= -1:
            return f"block {self.block} is none of its {anatomy.depth}, which are −1 (the last) to −{anatomy.depth}"
        if anatomy.readout == "pool" and self.block != -1:
            return "with an attention pooler the tokens are masked in front of the pooler, behind every block"
        return None

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        if trace.pool is not None:
            logits = _masked_pool(trace, trace.pool, self.kernel)
        elif trace.anatomy.readout == "token" and self.block == -1:
            logits = _masked_token(trace, self.kernel)
        else:
            logits = _masked_copies(trace, self.kernel, self.block)
        values = logits.softmax(-1) if self.score == "softmax" else logits
        return trace.grid(select_classes(values, targets))


@lru_cache(maxsize=32)
def _weights(kernel: Kernel, grid: tuple[int, int]) -> Tensor:
    """W: float64 [N, N], row i the weights of all patches when patch i is kept."""
    rows, columns = grid
    weights = torch.zeros(rows, columns, rows, columns, dtype=torch.float64)
    for dy, line in enumerate(_KERNELS[kernel], -1):
        for dx, weight in enumerate(line, -1):
            for y in range(max(0, -dy), min(rows, rows - dy)):
                for x in range(max(0, -dx), min(columns, columns - dx)):
                    weights[y, x, y + dy, x + dx] = weight
    return weights.reshape(rows * columns, rows * columns)


def _masked_attention(trace: Trace, site: AttentionCall, queries: int, kernel: Kernel) -> Tensor:
    """Attention output of the first queries under each of the N masks: [B, N, H, queries, d].

    The queries must not be masked themselves: prefix tokens, or the latent of a pooler.
    """
    rows = slice(0, queries)
    shown = site.attention
    value = shown.value.to(shown.scores(rows))
    weights = _weights(kernel, trace.anatomy.grid).to(value)
    prefix = site.tokens.shape[1] - trace.anatomy.patches
    weights = torch.cat([weights.new_ones(len(weights), prefix), weights], 1)[:, None]  # [N, 1, n]
    hidden = _at(trace, site, 0.0)
    if _is_affine(site.module):
        scores = torch.lerp(hidden.scores(rows)[:, :, None], shown.scores(rows)[:, :, None], weights)
    else:  # a normalised key is not linear in the weight of its token
        scores = shown.scores(rows)[:, :, None].expand(-1, -1, len(weights), -1, -1)
        for level in set(weights.unique().tolist()) - {1.0}:
            at_level = _at(trace, site, level).scores(rows)[:, :, None]
            scores = torch.where(weights == level, at_level, scores)
    attention = scores.softmax(-1)  # [B, H, N, queries, n]
    nothing = hidden.value.to(value)
    output = attention.flatten(2, 3) @ nothing + (attention * weights).flatten(2, 3) @ (value - nothing)
    return output.unflatten(2, (len(weights), queries)).transpose(1, 2)


def _at(trace: Trace, site: AttentionCall, level: float) -> Attention:
    """The attention of a site where all patch tokens are scaled."""
    sites: list[AttentionCall] = []
    tokens = site.tokens.clone()
    tokens[:, tokens.shape[1] - trace.anatomy.patches :] *= level
    with capture_attention(site.module, sites.append), trace.network():
        site.module(tokens, **site.options)
    return sites[0].attention


def _is_affine(module: Any) -> bool:
    """Whether queries and keys are taken as they are projected; rotating them is linear as well."""
    return all(isinstance(getattr(module, name, None), nn.Identity | None) for name in ("q_norm", "k_norm"))


def _masked_token(trace: Trace, kernel: Kernel) -> Tensor:
    """Logits [B, N, C] of a class-token read-out: the tail of the network on the class tokens alone."""
    anatomy, model = trace.anatomy, trace.model
    reads = anatomy.read_tokens
    output = _masked_attention(trace, trace.last, reads, kernel).to(trace.last.attention.output.dtype)
    tokens = trace.input(-1)[:, None, :reads].expand(-1, anatomy.patches, -1, -1).flatten(0, 1)
    with trace.network():
        with ReplaceAttentionOutput(output.flatten(0, 1)):
            tokens = model.blocks[-1](tokens)
        logits: Tensor = model.forward_head(model.norm(tokens))
    return logits.unflatten(0, (-1, anatomy.patches))


def _masked_pool(trace: Trace, pool: AttentionCall, kernel: Kernel) -> Tensor:
    """Logits [B, N, C] of an attention pooler."""
    anatomy, model = trace.anatomy, trace.model
    output = _masked_attention(trace, pool, 1, kernel).to(pool.attention.output.dtype)
    # The pooler is called for its projection and MLP; its attention is given, so what it sees is idle.
    idle = pool.tokens[:, None, :1].expand(-1, anatomy.patches, -1, -1).flatten(0, 1)
    with trace.network(), ReplaceAttentionOutput(output.flatten(0, 1)):
        logits: Tensor = model.forward_head(idle)
    return logits.unflatten(0, (-1, anatomy.patches))


def _masked_copies(trace: Trace, kernel: Kernel, block: int) -> Tensor:
    """Logits [B, N, C] by N masked copies of a block's input through the rest of the network, in chunks."""
    anatomy, model = trace.anatomy, trace.model
    tokens, normed = trace.input(block), trace.site(block).tokens
    weights = _weights(kernel, anatomy.grid).to(tokens)
    weights = torch.cat([weights.new_ones(len(weights), anatomy.prefix_tokens), weights], 1)[:, None, :, None]
    step = max(1, _TOKENS_AT_ONCE // (tokens.shape[0] * tokens.shape[1]))
    logits = []
    for masks in weights.split(step):
        skip = masks * tokens if anatomy.readout == "mean" else tokens.expand(len(masks), -1, -1, -1)
        shown = (masks * normed).flatten(0, 1)
        with trace.network():
            copies = _with_attention_input(model.blocks[block], skip.flatten(0, 1), shown, trace.options[block])
            for behind in range(block + 1, 0):
                copies = model.blocks[behind](copies, **trace.options[behind])
            logits.append(model.forward_head(model.norm(copies)).unflatten(0, (len(masks), -1)))
    return torch.cat(logits).transpose(0, 1)


def _with_attention_input(block: Any, tokens: Tensor, shown: Tensor, options: dict[str, Any]) -> Tensor:
    """Output of a block whose attention sees other tokens than the norm of its input."""
    with block.attn.register_forward_pre_hook(lambda _, args: (shown, *args[1:])):
        output: Tensor = block(tokens, **options)
    return output
