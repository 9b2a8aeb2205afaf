"""A recorded forward of a batch through any network: logits, features on grids, and their gradients."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.batch_norm import order_batch_norm_gradients
from pipeline.explain.capture import ORDINARY, BackwardPass, Capture, Gradients
from pipeline.explain.feature_readout import run_readout, to_map, to_positions
from pipeline.explain.network import FeatureLayer, Network
from pipeline.explain.readout import class_probabilities
from pipeline.explain.relevance_rules import Rules, RuleState
from pipeline.explain.rule_mode import RuleMode
from pipeline.explain.target_score import Target, compared_classes, target_values
from schemas.run import Precision

_WHOLE_GRIDS = 256
"""Largest number of means that fill a grid each, in memory; changes nothing else."""

_MIN_BATCH_SIZE = 32
"""Batch size of ``predict`` where the trace has fewer images; changes nothing but speed."""


@dataclass
class NetworkTrace:
    """A recorded forward.

    Attributes:
        model: the network.
        anatomy: its description.
        images: [B, 3, H, W], preprocessed.
        capture: what was recorded.
        keys: a name for each image, from which methods that use random numbers take their seed.
        seed: of the run, likewise.
        precision: see ``explain``.
        extra_outputs: numbers that methods report beside their map, [B, K] by name.
        passes: what the backward passes of each kind are for; by default all that was recorded.
        keeps_graph: whether the graph serves several backward passes; otherwise one frees it as it goes.
        logits: [B, C].
        rules: switch between the backward passes.
    """

    model: Any
    anatomy: Network
    images: Tensor
    capture: Capture
    keys: Sequence[str]
    seed: int
    precision: Precision
    extra_outputs: dict[str, Tensor] = field(default_factory=dict)
    passes: Mapping[BackwardPass, Capture] = field(default_factory=dict)
    keeps_graph: bool = True
    logits: Tensor = field(init=False)
    rules: RuleState = field(init=False)
    _features: dict[str, Tensor] = field(default_factory=dict)  # as the network has them, by the name of their layer
    _scores: Tensor = field(init=False)  # the logits, with their graph
    _gradients: tuple[Tensor, dict[BackwardPass, Gradients]] | None = None

    def __post_init__(self) -> None:
        self.rules = RuleState(keeps_gamma=Capture.GAMMA in self.capture)

    def to_grid(self, patches: Tensor) -> Tensor:
        """Reshape [B, N] or [B, K, N] to [B, K, h, w]; K is 1 where there is none."""
        return patches.reshape(len(patches), -1, *self.anatomy.grid)

    def to_layer_grid(self, positions: Tensor, name: str) -> Tensor:
        """Reshape [B, N] of the positions of a layer to [B, 1, h, w]."""
        return positions.unflatten(1, (1, *self.layer(name).grid))

    def autocast(self) -> torch.autocast:
        """Return the context in which the network's own modules run. Methods compute outside of it."""
        return autocast(self.images, self.precision)

    def patch_means(self, pixels: Tensor) -> Tensor:
        """Compute means over the pixels of each patch: [B, M, H, W] → [B, M, h, w]."""
        (rows, columns), (height, width) = self.anatomy.grid, self.anatomy.cell_size or (0, 0)
        if height:
            return F.avg_pool2d(pixels[..., : rows * height, : columns * width], (height, width))
        down, across = (_cell_members(edges, pixels) for edges in self.anatomy.cell_edges)
        return (down / down.sum(1, keepdim=True)) @ pixels @ (across / across.sum(1, keepdim=True)).mT

    def patch_sums(self, pixels: Tensor) -> Tensor:
        """Compute sums over the channels and pixels of each patch: [B, 3, H, W] → [B, 1, h, w]."""
        if cell := self.anatomy.cell_size:
            return self.patch_means(pixels.sum(1, keepdim=True)) * (cell[0] * cell[1])
        down, across = (_cell_members(edges, pixels) for edges in self.anatomy.cell_edges)
        return down @ pixels.sum(1, keepdim=True) @ across.mT

    def layer(self, name: str) -> FeatureLayer:
        """Return the feature layer of a name."""
        layer = self.anatomy.layer(name)
        assert layer is not None, "the method did not refuse a layer that the network does not have"
        return layer

    def features_at(self, name: str) -> Tensor:
        """Return the features of the positions of a layer: [B, N, D], in the dtype of the images."""
        return to_positions(self._features[name], self.layer(name)).to(self.images.dtype)

    def feature_gradients(self, name: str, targets: Tensor, backward_pass: BackwardPass = ORDINARY) -> Tensor:
        """Compute the gradient of each image's target with respect to ``features_at``: [B, N, D].

        Args:
            name: of the layer.
            targets: int64 [B, 1].
            backward_pass: what is differentiated.
        """
        gradient = self.gradients(targets, backward_pass).features[name]
        return to_positions(gradient, self.layer(name)).to(self.images.dtype)

    def prefix_features(self) -> Tensor:
        """Return the features before the positions of the last grid: [B, P, D]; P is 0 in most networks."""
        layer = self.anatomy.features[0]
        features = self._features[layer.name].detach().to(self.images.dtype)
        return features[:, : layer.prefix_tokens] if layer.layout == "NLC" else features.flatten(2)[:, :0]

    def read_features(self, features: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Compute logits [M, C] of last features [M, h, w, D], by the network's own read-out.

        Args:
            features: the grid.
            prefix: [M, P, D] of ``prefix_features``, where the read-out is not of a mean; by default 0.
        """
        with torch.no_grad(), self.autocast():
            layer = self.anatomy.features[0]
            parts = features.split(_WHOLE_GRIDS if layer.fills else len(features))
            logits = torch.cat([run_readout(self.model, layer, to_map(part, layer, prefix)) for part in parts])
        return logits.to(self.images.dtype)

    def position_shares(self, targets: Tensor) -> Tensor:
        """Compute the share of each position in the logits of a read-out that is linear in the mean: [B, K, N].

        That is y_c(F_i) − y_c(0) = ⟨F_i, ∂y_c/∂F_i⟩, with the gradient of the read-out at a single position.

        Args:
            targets: int64 [B, K].
        """
        layer = self.anatomy.features[0]
        class_ids, places = targets.unique(return_inverse=True)
        points = self.images.new_zeros(len(class_ids), 1, 1, layer.channels).requires_grad_()
        with torch.enable_grad(), self.autocast():
            logits = run_readout(self.model, layer, to_map(points, layer))
        (weights,) = torch.autograd.grad(logits, points, F.one_hot(class_ids, logits.shape[1]).to(logits.dtype))
        return weights[places, 0, 0] @ self.features_at(layer.name).mT

    def patch_logits(self) -> Tensor:
        """Compute the logits of every position, as if the read-out saw it alone: [B, N, C]."""
        positions = self.features_at(self.anatomy.features[0].name)
        return self.read_features(positions.flatten(0, 1)[:, None, None]).unflatten(0, positions.shape[:2])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute class probabilities [..., C] of logits [..., C]; see ``class_probabilities``."""
        return class_probabilities(self.model, logits)

    def predict(self, images: Tensor) -> Tensor:
        """Compute the logits [M, C] of other images [M, 3, H, W], batch by batch."""
        batch_size = max(len(self.images), _MIN_BATCH_SIZE)
        with torch.no_grad(), self.autocast():
            return torch.cat([self.model(batch) for batch in images.split(batch_size)]).to(self.images.dtype)

    def target_values(self, logits: Tensor, targets: Tensor, target: Target) -> Tensor:
        """Compute the number that a map explains: [B, K], or [B, N, K].

        Classes to compare with are those of the recorded forward, whatever the logits are of.

        Args:
            logits: [B, C] or [B, N, C].
            targets: int64 [B, K].
            target: see ``pipeline.explain.target_score.target_values``.
        """
        compared = compared_classes(self.logits, targets, target)
        if logits.ndim == 3:
            copies = logits.shape[1]
            targets = targets[:, None].expand(-1, copies, -1)
            compared = None if compared is None else compared[:, None].expand(-1, copies, -1, -1)
        return target_values(self.model, logits, targets, target, compared)

    @contextmanager
    def graph(self, backward_pass: BackwardPass) -> Iterator[None]:
        """Run the network with a graph for a backward pass of this kind; autocast is entered apart."""
        rules = nullcontext() if backward_pass.rules is None else self.rule_mode()
        with torch.enable_grad(), rules:
            yield

    def rule_mode(self) -> AbstractContextManager[None]:
        """Return the context of runs of the network that backward passes by rules go through."""
        modules = [self.model.get_submodule(path) for path in self.anatomy.attention_modules]
        return RuleMode(self.rules).on(self.model, modules)

    def rules_as_captured(self) -> AbstractContextManager[None]:
        """Return that context if any backward pass follows rules."""
        return self.rule_mode() if Capture.RULES in self.capture else nullcontext()

    def image_gradient(self, images: Tensor, targets: Tensor, backward_pass: BackwardPass = ORDINARY) -> Tensor:
        """Compute the gradient of the target with respect to other images.

        Args:
            images: [B, 3, H, W].
            targets: int64 [B, 1].
            backward_pass: what is differentiated, and by which rules.

        Returns:
            [B, 3, H, W].
        """
        images = images.detach().requires_grad_()
        with self.graph(backward_pass), self.autocast():
            logits = self.model(images)
        order_batch_norm_gradients(logits)
        with torch.enable_grad():
            score = self.target_values(logits, targets, backward_pass.target).sum()
        (gradient,) = self.backward(score, [images], backward_pass.rules, keep_graph=False)
        return gradient

    def gradients(self, targets: Tensor, backward_pass: BackwardPass = ORDINARY) -> Gradients:
        """Compute the captured gradients of each image's target by one backward, which all methods share.

        Args:
            targets: int64 [B, 1].
            backward_pass: what is differentiated, and by which rules.
        """
        # Comparing values waits for a GPU, so identity is tried first.
        if self._gradients is None or not (self._gradients[0] is targets or torch.equal(self._gradients[0], targets)):
            self._gradients = targets, {}
        known = self._gradients[1]
        if backward_pass not in known:
            known[backward_pass] = self._compute_gradients(targets, backward_pass)
        return known[backward_pass]

    def _compute_gradients(self, targets: Tensor, backward_pass: BackwardPass) -> Gradients:
        inputs = self._differentiated(self.passes.get(backward_pass, self.capture))
        with torch.enable_grad():
            score = self.target_values(self._scores, targets, backward_pass.target).sum()
        values = self.backward(score, list(inputs.values()), backward_pass.rules)
        return self._collect(dict(zip(inputs, values, strict=True)))

    def _differentiated(self, capture: Capture) -> dict[str, Tensor]:
        """Return the tensors that a backward pass is for, by name."""
        inputs = {"images": self.images} if Capture.IMAGE_GRADIENTS in capture else {}
        if Capture.LAST_GRADIENTS in capture:
            inputs |= {f"layer {name}": features for name, features in self._features.items()}
        return inputs

    def _collect(self, gradients: dict[str, Tensor]) -> Gradients:
        """Return the gradients of ``_differentiated``."""
        layers = {name: gradients[f"layer {name}"] for name in self._features if f"layer {name}" in gradients}
        return Gradients([], images=gradients.get("images"), features=layers)

    def backward(
        self, score: Tensor, inputs: list[Tensor], rules: Rules | None = None, keep_graph: bool | None = None
    ) -> tuple[Tensor, ...]:
        """Compute the gradients of a scalar with respect to ``inputs``.

        Args:
            score: the scalar, with its graph. An image's target depends on no other image, so the sum serves all.
            inputs: tensors of the graph.
            rules: see ``BackwardPass``.
            keep_graph: whether another backward pass goes through the graph; by default ``keeps_graph``.
        """
        keep = self.keeps_graph if keep_graph is None else keep_graph
        with self.rules.by(rules):
            return torch.autograd.grad(score, inputs, retain_graph=keep, materialize_grads=True)


def _cell_members(edges: tuple[int, ...], like: Tensor) -> Tensor:
    """Return which pixels lie between each two edges: [cells, pixels] of 0 and 1."""
    pixels = torch.arange(edges[-1], device=like.device)
    starts, ends = (torch.tensor(part, device=like.device)[:, None] for part in (edges[:-1], edges[1:]))
    return ((pixels >= starts) & (pixels < ends)).to(like)


def gather_class_values(values: Tensor, targets: Tensor) -> Tensor:
    """Select the target classes.

    Args:
        values: [B, N, C].
        targets: int64 [B, K].

    Returns:
        [B, K, N].
    """
    return values.gather(2, targets[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)


def autocast(images: Tensor, precision: Precision) -> torch.autocast:
    """Return an autocast context for a precision. Casts of weights are not cached: in training the weights change.

    Args:
        images: a tensor on the device of the model.
        precision: ``full`` means no autocast.
    """
    dtype = torch.bfloat16 if precision == "full" else getattr(torch, precision)
    return torch.autocast(images.device.type, dtype, enabled=precision != "full", cache_enabled=False)
