"""A recorded forward of a batch, from which every method takes what it needs."""

from dataclasses import dataclass, field
from enum import Flag
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.attention_capture import AttentionCall, upcast
from pipeline.explain.lrp_rules import LRPMode
from pipeline.explain.readout import classifier_logits
from schemas.run import Precision

_AT_ONCE = 32
"""Images of one batch of ``predict``, where the trace has fewer; changes nothing but speed."""


class Capture(Flag):
    """What a method needs recorded beside the last attention before the read-out."""

    LAST = 0
    ATTENTION = 1
    """queries, keys and values of every block"""
    TOKENS = 2
    """inputs and outputs of every block"""
    GRAPH = 4
    """a graph from the images to the logits; also what ``mean_output`` is made from"""
    TO_LAST = 8 | GRAPH
    """the gradient of the target with respect to what the last block attends to and by"""
    TO_ATTENTION = 16 | TO_LAST | ATTENTION
    """the same of every block"""
    TO_IMAGES = 32 | GRAPH
    """the gradient with respect to the images"""
    CONSERVING = 64 | GRAPH
    """a conserving backward beside the ordinary one"""
    LINEARS = 128 | GRAPH
    """inputs and outputs of the linear layers of every block"""


@dataclass
class LinearCall:
    """A linear layer with what went in, [B, n, in], and what came out, [B, n, out]."""

    module: nn.Linear
    input: Tensor
    output: Tensor

    def of(self, tokens: slice) -> "LinearCall":
        """The same of some tokens, at least float32."""
        return LinearCall(self.module, upcast(self.input[:, tokens]), upcast(self.output[:, tokens]))


@dataclass
class Gradients:
    """Gradients of each image's target logit y.

    Attributes:
        attention: ∂y/∂(attention output) of each block, [B, H, n, d]; None where it was not asked for.
        pool: the same of the attention pooler, [B, H, 1, d].
        last_tokens: ∂y/∂(``norm1`` output of the last block), [B, n, D].
        images: ∂y/∂(images).
    """

    attention: list[Tensor | None]
    pool: Tensor | None = None
    last_tokens: Tensor | None = None
    images: Tensor | None = None

    def of_block(self, block: int) -> Tensor:
        """∂y/∂(attention output) of a block."""
        gradient = self.attention[block]
        assert gradient is not None, "the method did not declare that it needs the gradient to this block"
        return gradient


@dataclass
class Trace:
    """A recorded forward.

    Attributes:
        model, anatomy: the network.
        images: [B, 3, H, W], preprocessed.
        need: what was recorded.
        keys: a name for each image, from which methods that draw at random take their seed.
        seed: of the run, likewise.
        precision: see ``explain``.
        extra_outputs: what methods report beside their map, [B, K] by name.
        logits: [B, C].
        embedding: [B, N, D] or [B, h, w, D], output of the patch embedding.
        blocks: the attention of each block; all but the last are None without ``Capture.ATTENTION``.
        inputs: [B, n, D], of each block; all but the last are None without ``Capture.TOKENS``.
        options: keyword arguments that each block was called with.
        last_output: [B, n, D] of the last block.
        linears: of each block, by name, where asked for.
        pool: the attention pooler, where the read-out is one.
    """

    model: Any
    anatomy: Anatomy
    images: Tensor
    need: Capture
    keys: tuple[str, ...]
    seed: int
    precision: Precision
    extra_outputs: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(init=False)
    embedding: Tensor = field(init=False)
    last_output: Tensor = field(init=False)
    blocks: list[AttentionCall | None] = field(default_factory=list)
    inputs: list[Tensor | None] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    linears: list[dict[str, LinearCall]] = field(default_factory=list)
    pool: AttentionCall | None = None
    rules: LRPMode = field(default_factory=LRPMode)
    _middles: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _scores: Tensor = field(init=False)
    _gradients: tuple[Tensor, Gradients] | None = None

    @property
    def last(self) -> AttentionCall:
        """The last block's attention."""
        return self.site(-1)

    def site(self, block: int) -> AttentionCall:
        """A block's attention."""
        site = self.blocks[block]
        assert site is not None, "the method did not declare that it needs the attention of every block"
        return site

    def input(self, block: int) -> Tensor:
        """Input of a block: [B, n, D]."""
        tokens = self.inputs[block]
        assert tokens is not None, "the method did not declare that it needs the tokens of every block"
        return tokens

    def output(self, block: int) -> Tensor:
        """Output of a block: [B, n, D]."""
        return self.last_output if block == self.anatomy.depth - 1 else self.input(block + 1)

    def middle(self, block: int) -> Tensor:
        """What a block has between attention and MLP: [B, n, D]; only where there is a graph."""
        return self._middles[block][0]

    def grid(self, patches: Tensor) -> Tensor:
        """[B, N] or [B, K, N] → [B, K, h, w]; K is 1 where there is none."""
        return patches.reshape(len(patches), -1, *self.anatomy.grid)

    def network(self) -> torch.autocast:
        """The context that the network's own modules run in. What methods compute stays outside."""
        return autocast(self.images, self.precision)

    def patch_means(self, pixels: Tensor) -> Tensor:
        """Means over the pixels of each patch: [B, M, H, W] → [B, M, h, w]."""
        (rows, columns), (height, width) = self.anatomy.grid, self.anatomy.patch
        return F.avg_pool2d(pixels[..., : rows * height, : columns * width], (height, width))

    def patch_sums(self, pixels: Tensor) -> Tensor:
        """Sums over the channels and pixels of each patch: [B, 3, H, W] → [B, 1, h, w]."""
        height, width = self.anatomy.patch
        return self.patch_means(pixels.sum(1, keepdim=True)) * (height * width)

    def features(self, vector: Tensor) -> Tensor:
        """What the classifier sees of token vectors [..., D]: final norm, then ``fc_norm``."""
        with self.network():
            return self.model.fc_norm(self.model.norm(vector))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [..., C] of features [..., D]. Of a distilled network the mean of its two classifiers."""
        with self.network():
            return classifier_logits(self.model, features)

    def predict(self, images: Tensor) -> Tensor:
        """Logits [M, C] of other images [M, 3, H, W], a batch at a time."""
        room = max(len(self.images), _AT_ONCE)
        with torch.no_grad(), self.network():
            return torch.cat([self.model(part) for part in images.split(room)]).to(self.images.dtype)

    def gradient_at(self, images: Tensor, targets: Tensor) -> Tensor:
        """Gradient of the target logit with respect to other images, at these: [B, 3, H, W].

        Args:
            targets: int64 [B, 1].
        """
        images = images.detach().requires_grad_()
        with torch.enable_grad(), self.network():
            score = self.model(images).gather(1, targets).sum()
        (gradient,) = torch.autograd.grad(score, [images])
        return gradient

    def mean_output(self, block: int) -> Tensor:
        """Mean over all n tokens of a block's output, with the graph: [B, D].

        The last layer of the MLP is linear, so its output's mean is its output of the mean: one token
        goes through it, and in the backward pass, where all n would.
        """
        middle, hidden = self._middles[block]
        module = self.model.blocks[block]
        with self.network():
            branch = module.mlp.fc2(hidden.mean(1))
        if getattr(module, "gamma_2", None) is not None:
            branch = module.gamma_2 * branch
        elif hasattr(module, "ls2"):
            branch = module.ls2(branch)
        return middle.mean(1) + branch

    def gradients(self, targets: Tensor) -> Gradients:
        """Gradients of each image's target logit, all from one backward, which the methods share.

        Args:
            targets: int64 [B, 1].
        """
        if self._gradients is not None:
            before, found = self._gradients
            if before is targets or torch.equal(before, targets):  # to compare values, a GPU has to be waited for
                return found
        self._gradients = targets, self._backward(targets)
        return self._gradients[1]

    def _backward(self, targets: Tensor) -> Gradients:
        every = Capture.TO_ATTENTION in self.need
        wanted: dict[str, Tensor] = {}
        if Capture.TO_LAST in self.need:
            wanted["last_tokens"] = self.last.tokens
            for index, site in enumerate(self.blocks):
                if site is not None and (every or index == self.anatomy.depth - 1):
                    wanted[f"attention {index}"] = site.attention.output
            if self.pool is not None:
                wanted["pool"] = self.pool.attention.output
        if Capture.TO_IMAGES in self.need:
            wanted["images"] = self.images
        found = dict(zip(wanted, self.backward(self.target(targets), list(wanted.values())), strict=True))
        attention = [found.get(f"attention {index}") for index in range(self.anatomy.depth)]
        return Gradients(attention, found.get("pool"), found.get("last_tokens"), found.get("images"))

    def target(self, targets: Tensor) -> Tensor:
        """Sum of the target logits: an image's logit depends on no other image, so one backward serves all."""
        with torch.enable_grad():
            return self._scores.gather(1, targets).sum()

    @staticmethod
    def backward(score: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of a scalar; the graph stays."""
        return torch.autograd.grad(score, inputs, retain_graph=True)


def select_classes(values: Tensor, targets: Tensor) -> Tensor:
    """Of values [B, N, C] those of the target classes [B, K]: [B, K, N]."""
    return values.gather(2, targets[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)


def autocast(images: Tensor, precision: Precision) -> torch.autocast:
    """Autocast to a half precision, or to none. Casts of weights are not kept: in training the weights change."""
    dtype = torch.bfloat16 if precision == "full" else getattr(torch, precision)
    return torch.autocast(images.device.type, dtype, enabled=precision != "full", cache_enabled=False)
