"""The slow other route to relevance: every rule written out with constants, so that ordinary autograd follows it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from explicit import TARGET, Call
from timm.layers import GluMlp, SwiGLU
from torch import Tensor, nn

from pipeline.explain import describe


@dataclass
class WrittenRules:
    """Which rules: halves where relevance of a product is shared, constant attention otherwise; γ by the layer."""

    shares_attention: bool = False
    gamma: float = 0.0
    embedding_gamma: float = 0.0
    gamma_in_attention: bool = True


def half(x: Tensor) -> Tensor:
    return x / 2 + (x / 2).detach()


@contextmanager
def written_rules(model: nn.Module, rules: WrittenRules, calls: list[Call] | None = None) -> Iterator[None]:
    """Make the gradients of a model those of the rules; its values stay. Calls of attention are noted in ``calls``."""
    plain = {name: getattr(F, name) for name in ("gelu", "silu", "linear", "conv2d", "scaled_dot_product_attention")}
    tanh, sigmoid = torch.tanh, torch.sigmoid
    attention_weights = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if any(part in name for part in (".attn.", "attn_pool.")) and ".mlp." not in name
    }

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: object) -> Tensor:
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if not rules.shares_attention:
            scores = scores if attn_mask is None else scores + attn_mask
            matrix = scores.softmax(-1).detach().requires_grad_()  # a constant, of which one may ask the gradient
            if calls is not None:
                calls.append(Call(scores, matrix, v))
            return matrix @ v
        scores = half(scores)
        return half((scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v)

    def norm(x: Tensor, shape: object, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt().detach()
        return scaled * (1 if weight is None else weight) + (0 if bias is None else bias)

    def rms_norm(x: Tensor, shape: object, weight: Tensor, eps: float | None = None) -> Tensor:
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt().detach() * weight

    def gated(function: Any) -> Any:
        return lambda x, **options: x * (function(x, **options) / x).detach()

    def normalize(x: Tensor, dim: int = 1) -> Tensor:
        return x / x.square().sum(dim, keepdim=True).sqrt().detach()

    def with_gamma(function: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: float) -> Tensor:
        """γ rule of a linear layer with every contribution written out: x [..., in], weight [out, in]."""
        y = function(x, weight, bias).detach()
        bias = torch.zeros(len(weight), dtype=x.dtype) if bias is None else bias
        factors = 1 + gamma * ((x[..., None, :] * weight) * y[..., None] > 0).to(x)  # [..., out, in]
        z = (x[..., None, :] * weight * factors).sum(-1) + bias * (1 + gamma * (bias * y > 0).to(x))
        share = torch.where(y == 0, 0, y / z).detach()
        passed = (x[..., None, :] * (weight * factors).detach()).sum(-1) * share
        return passed + (y - passed).detach()

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not rules.gamma or (id(weight) in attention_weights and not rules.gamma_in_attention):
            return plain["linear"](x, weight, bias)
        return with_gamma(plain["linear"], x, weight, bias, rules.gamma)

    def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, *rest: Any) -> Tensor:
        if not rules.embedding_gamma:
            return plain["conv2d"](x, weight, bias, stride, *rest)
        patches = F.unfold(x, weight.shape[2:], stride=stride).transpose(1, 2)
        flat = with_gamma(plain["linear"], patches, weight.flatten(1), bias, rules.embedding_gamma)
        rows, columns = (size // step for size, step in zip(x.shape[2:], stride, strict=True))
        return flat.transpose(1, 2).unflatten(2, (rows, columns))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, GluMlp | SwiGLU):
                handle = module.norm.register_forward_pre_hook(lambda _, args: (half(args[0]),))
                stack.callback(handle.remove)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(F, "scaled_dot_product_attention", attention)
        patch.setattr(F, "layer_norm", norm)
        patch.setattr(F, "gelu", gated(plain["gelu"]))
        patch.setattr(F, "silu", gated(plain["silu"]))
        patch.setattr(torch, "tanh", gated(tanh))
        patch.setattr(torch, "sigmoid", lambda x: sigmoid(x).detach())
        patch.setattr("timm.layers.norm.rms_norm", rms_norm)
        patch.setattr(F, "rms_norm", rms_norm)
        patch.setattr(F, "normalize", normalize)
        patch.setattr(F, "linear", linear)
        patch.setattr(F, "conv2d", conv2d)
        yield


def relevance(model: nn.Module, images: Tensor, rules: WrittenRules, pixels: bool) -> Tensor:
    """Gradient × input of the written-out rules: [B, N]."""
    embedded: list[Tensor] = []
    images = images.clone().requires_grad_()
    handle = model.patch_embed.register_forward_hook(lambda _, __, output: embedded.append(output))
    try:
        with written_rules(model, rules):
            logits = model(images)
    finally:
        handle.remove()
    read = images if pixels else embedded[0]
    (gradient,) = torch.autograd.grad(logits[:, TARGET].sum(), read)
    product = (read * gradient).detach()
    if not pixels:
        return product.sum(-1).flatten(1)
    rows, columns = describe(model).grid
    return product.reshape(len(images), 3, rows, 8, columns, 8).sum((1, 3, 5)).flatten(1)
