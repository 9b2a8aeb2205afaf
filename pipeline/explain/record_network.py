"""One forward of any network, recorded: logits, and features on grids, with a graph where methods need gradients."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.batch_norm import order_batch_norm_gradients
from pipeline.explain.capture import BackwardPass, Capture
from pipeline.explain.network import LAST, FeatureLayer, Network
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.readout_code import are_same_logits
from pipeline.explain.shape_run import observe_head
from schemas.errors import UnsupportedModel
from schemas.run import Precision


def record_network(
    model: nn.Module,
    anatomy: Network,
    images: Tensor,
    capture: Capture,
    keys: Sequence[str],
    seed: int,
    precision: Precision = "full",
    passes: Mapping[BackwardPass, Capture] | None = None,
    layers: tuple[str, ...] = (),
) -> NetworkTrace:
    """Run one forward and record it. Call it inside ``preserve_model_state(model)``.

    The graph begins at the images only where their gradient is needed, otherwise at the first of the layers.

    Args:
        model: the network.
        anatomy: its description.
        images: [B, 3, H, W], preprocessed, of the network's dtype and device.
        capture: union of what the methods need.
        keys: see ``NetworkTrace``.
        seed: see ``NetworkTrace``.
        precision: see ``explain``.
        passes: see ``NetworkTrace``.
        layers: names of the feature layers to record.

    Raises:
        UnsupportedModel: the forward does not pass a layer, passes it several times, or with another shape; or the
            code behind the last features does not give the logits of the forward.
    """
    graph = Capture.GRAPH in capture
    images = images.clone() if images.is_inference() else images.detach()
    images.requires_grad_(Capture.IMAGE_GRADIENTS in capture)
    trace = NetworkTrace(model, anatomy, images, capture, keys, seed, precision, passes=passes or {})
    code = trace.layer(LAST).code if LAST in layers else None

    def record(layer: FeatureLayer, features: Tensor) -> Tensor:
        if layer.name in trace._features:
            raise UnsupportedModel(f"{anatomy.family} cannot be explained: it runs {layer.path} several times")
        if features.shape != (len(images), *layer.shape):
            raise UnsupportedModel(
                f"{anatomy.family} cannot be explained: {layer.path or 'its read-out'} has features of shape "
                f"{list(features.shape)}; one image alone had [1, {', '.join(map(str, layer.shape))}]"
            )
        if graph and not features.requires_grad:
            features = features.detach().requires_grad_()
        trace._features[layer.name] = features
        return features.clone()  # the network may overwrite it

    outputs: list[Tensor] = []  # in front of the code of a network without forward_head

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        if outputs:
            raise UnsupportedModel(
                f"{anatomy.family} cannot be explained: it runs {trace.layer(LAST).path} several times"
            )
        outputs.append(output.clone())  # the network may overwrite it

    def after(layer: FeatureLayer) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return record(layer, output[0]), *output[1:]
            return record(layer, output)

        return hook

    with ExitStack() as stack:
        for layer in map(trace.layer, layers):
            if layer.path and not layer.code:
                stack.enter_context(model.get_submodule(layer.path).register_forward_hook(after(layer)))
            elif not layer.path:
                stack.enter_context(observe_head(model, partial(record, layer)))
        if code:  # after the other layers, so that it gets their copies
            stack.enter_context(model.get_submodule(code.path).register_forward_hook(keep))
        stack.enter_context(trace.rules_as_captured())
        with torch.set_grad_enabled(graph), trace.autocast():
            trace._scores = own_scores = model(images)
            if code and outputs:
                features = record(trace.layer(LAST), code.features(model, outputs[0]))
                trace._scores = code.logits(model, features)
                _check_code(anatomy, trace._scores, own_scores)
    for name in layers:
        if name not in trace._features:
            raise UnsupportedModel(f"{anatomy.family} cannot be explained: its forward does not pass {name}")
    if graph:
        order_batch_norm_gradients(trace._scores)
    trace.logits = trace._scores.detach()
    return trace


def _check_code(anatomy: Network, scores: Tensor, own_scores: Tensor) -> None:
    """Make sure that the code behind the last features gives the logits of the forward.

    Raises:
        UnsupportedModel: it does not.
    """
    if not are_same_logits(scores.detach(), own_scores.detach()):
        raise UnsupportedModel(
            f"{anatomy.family} cannot be explained: what its forward does behind {anatomy.features[0].path}, as "
            "torch.fx reads it, does not give the logits of the forward; write it as a method forward_head"
        )
