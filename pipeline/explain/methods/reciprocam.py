"""ViT-ReciproCAM."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.registry import methods
from pipeline.explain.trace import Site, Substitute, Trace, watch

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

    Where one query is read (class token or pooler) no masked copy is made: a key depends on its own token
    and its weight only, so the few weighted versions of each key and value are computed once, and every
    mask picks among them. This is exact, and holds with q/k norm and rotary embedding. The mean read-out
    takes the general form: N masked copies through the last block, in chunks.

    Options:
        kernel: ``gaussian`` as in the paper (weights ¼, ⅛, 1⁄16), ``peak`` the same scaled to 1 in the
            middle, ``box`` all ones, ``single`` the patch alone (the paper's 1×1).
        score: ``softmax`` as in the paper, or the raw ``logit`` (openvino_xai).

    The authors' code masks the second-to-last block instead; openvino_xai takes logits.
    """

    base = "reciprocam"
    paper = "Byun & Lee, ViT-ReciproCAM, arXiv 2310.02588"
    cost = "≈0.25; mean read-out ≈N/L"

    kernel: Kernel = "gaussian"
    score: Literal["softmax", "logit"] = "softmax"

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        with torch.no_grad():
            if trace.anatomy.readout == "mean":
                logits = _masked_copies(trace, self.kernel)
            elif trace.pool is not None:
                logits = _masked_pool(trace, trace.pool, self.kernel)
            else:
                logits = _masked_token(trace, self.kernel)
            values = logits.softmax(-1) if self.score == "softmax" else logits
        index = targets[:, None, None].expand(-1, values.shape[1], 1)
        return trace.grid(values.gather(2, index)[:, :, 0])


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


def _masked_attention(site: Site, queries: int, prefix: int, kernel: Kernel, grid: tuple[int, int]) -> Tensor:
    """Attention output of the first queries under each of the N masks: [B, N, H, queries, d].

    The queries must not be masked themselves: prefix tokens, or the latent of a pooler.
    """
    weights = _weights(kernel, grid).to(site.tokens.device)
    versions: list[Site] = []
    levels = weights.unique().tolist()
    with watch(site.module, versions.append):
        for level in levels:
            tokens = site.tokens.clone()
            tokens[:, prefix:] *= level
            site.module(tokens, **site.options)
    query, scale, bias = site.attention.query[:, :, :queries], site.attention.scale, site.attention.bias

    def scores(version: Site) -> Tensor:
        plain = query @ version.attention.key.transpose(-1, -2) * scale
        return plain if bias is None else plain + bias[..., :queries, :]

    # chosen[v][i, j]: mask i shows token j in version v. Prefix tokens are the same in all versions.
    chosen = torch.stack([weights == level for level in levels])
    everywhere = torch.zeros(len(levels), len(weights), prefix, dtype=torch.bool, device=weights.device)
    everywhere[0] = True
    chosen = torch.cat([everywhere, chosen], 2)
    shown = torch.stack([scores(version) for version in versions])  # [V, B, H, queries, n]
    masked = torch.where(chosen[0][:, None], shown[0][:, :, None], shown.new_zeros(()))
    for version in range(1, len(levels)):
        masked = torch.where(chosen[version][:, None], shown[version][:, :, None], masked)
    attention = masked.softmax(-1)  # [B, H, N, queries, n]
    outputs = [
        (attention * chosen[version][:, None]).flatten(2, 3) @ versions[version].attention.value
        for version in range(len(levels))
    ]
    total = torch.stack(outputs).sum(0).unflatten(2, (len(weights), queries))
    return total.transpose(1, 2)


def _masked_token(trace: Trace, kernel: Kernel) -> Tensor:
    """Logits [B, N, C] of a class-token read-out: the tail of the network on the class tokens alone."""
    anatomy, model = trace.anatomy, trace.model
    reads = anatomy.read_tokens
    output = _masked_attention(trace.last, reads, anatomy.prefix_tokens, kernel, anatomy.grid)
    tokens = trace.last_input[:, None, :reads].expand(-1, anatomy.patches, -1, -1).flatten(0, 1)
    with Substitute(output.flatten(0, 1)):
        tokens = model.blocks[-1](tokens)
    logits: Tensor = model.forward_head(model.norm(tokens))
    return logits.unflatten(0, (-1, anatomy.patches))


def _masked_pool(trace: Trace, pool: Site, kernel: Kernel) -> Tensor:
    """Logits [B, N, C] of an attention pooler."""
    anatomy, model = trace.anatomy, trace.model
    output = _masked_attention(pool, 1, 0, kernel, anatomy.grid)
    # The pooler is called for its projection and MLP; its attention is given, so what it sees is idle.
    idle = pool.tokens[:, None, :1].expand(-1, anatomy.patches, -1, -1).flatten(0, 1)
    with Substitute(output.flatten(0, 1)):
        logits: Tensor = model.forward_head(idle)
    return logits.unflatten(0, (-1, anatomy.patches))


def _masked_copies(trace: Trace, kernel: Kernel) -> Tensor:
    """Logits [B, N, C] of a mean read-out: N masked copies of the last block's input, in chunks."""
    anatomy, model = trace.anatomy, trace.model
    prefix = anatomy.prefix_tokens
    weights = _weights(kernel, anatomy.grid).to(trace.last_input)
    weights = torch.cat([weights.new_ones(len(weights), prefix), weights], 1)[:, None, :, None]
    step = max(1, _TOKENS_AT_ONCE // (trace.last_input.shape[0] * trace.last_input.shape[1]))
    logits = []
    for masks in weights.split(step):
        masked = (masks * trace.last_input).flatten(0, 1)
        normed = (masks * trace.last.tokens).flatten(0, 1)
        handle = model.blocks[-1].attn.register_forward_pre_hook(lambda _, args, x=normed: (x, *args[1:]))
        try:
            tokens = model.blocks[-1](masked)
        finally:
            handle.remove()
        logits.append(model.forward_head(model.norm(tokens)).unflatten(0, (len(masks), -1)))
    return torch.cat(logits).transpose(0, 1)
