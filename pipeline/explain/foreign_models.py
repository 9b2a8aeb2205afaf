"""Vision transformers of transformers, torchvision and open_clip as the networks of timm that they are.

They are known by the module of their class and by the names of their tensors; none of these libraries is imported.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain import description
from pipeline.explain.checkpoint.derive import derive_config
from pipeline.explain.checkpoint.fit import fit
from pipeline.explain.checkpoint.recognize import recognize
from pipeline.explain.checkpoint.transformers_config import Facts, TransformersConfig
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.network import Network
from schemas.errors import UnsupportedModel, UsageError

_LIBRARIES = ("transformers", "torchvision", "open_clip")
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference of outputs, relative to the largest output. Rotary angles are float32 in every precision."""
_HALF_TOLERANCE = 0.05


def describe(model: nn.Module, size: tuple[int, int] | None = None) -> Network:
    """Describe a network: what attribution methods need of it, and what of that it offers.

    Args:
        model: a vision transformer of timm or one that ``as_timm`` takes, or any network that returns logits [B, C] of
            images [B, 3, H, W].
        size: height and width of the images, for a network that takes several sizes; by default those that it states.

    Returns:
        An ``Anatomy`` for a plain vision transformer.

    Raises:
        UnsupportedModel: no method is defined for it; the message gives the reason.
    """
    return description.describe(as_timm(model), size)


def as_timm(model: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Return the network of timm that a network of another library is; others are returned as they are.

    ``explain`` and ``describe`` do this on their own; for many batches, and for a tower or backbone that needs a
    ``Head``, do it once before. Tensors are shared where both libraries have the same ones.

    Args:
        model: a ViT, DeiT, BEiT, DINOv2, DINOv3, CLIP or SigLIP vision model of transformers, a ``vit_*`` of
            torchvision, or a CLIP of open_clip.
        images: [B, 3, H, W], on which the outputs of both networks are compared; by default two of random numbers.

    Raises:
        UnsupportedModel: it is a network of these libraries that timm does not have, or computes something else.
    """
    library = next((base.__module__.partition(".")[0] for base in type(model).__mro__ if _is_foreign(base)), None)
    if library is None:
        return model
    name = f"{type(model).__name__} of {library}"
    try:
        given = recognize(dict(model.state_dict()), name)
        if given.layout is None or given.layout.architecture is None:
            return model  # describe says what it is
        facts = _facts(model, name)
        twin, _ = fit(derive_config(given, facts, name), given, facts, name, share=True)
    except UsageError as error:
        raise UnsupportedModel(f"{name} cannot be explained: {str(error).removeprefix(f'{name}: ')}") from None
    weights = next(model.parameters())
    twin = twin.to(weights.device, weights.dtype).train(model.training)
    _compare(model, twin, images, name, given.layout.name)
    if given.layout.normalization is None:  # open_clip says it; of transformers it is not the model that knows
        tower: Any = getattr(model, "visual", None)
        mean, std = getattr(tower, "image_mean", None), getattr(tower, "image_std", None)
        twin.pretrained_cfg = getattr(twin, "pretrained_cfg", {}) | {"mean": mean, "std": std}  # type: ignore[assignment]
    return twin


def _is_foreign(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _LIBRARIES


def _facts(model: Any, name: str) -> Facts:
    """Return what decides the output of a network beyond its weights."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        return TransformersConfig.read(config.to_dict(), name).facts(name)
    tower = getattr(model, "visual", model)
    modules = list(tower.modules())
    heads = {module.num_heads for module in modules if isinstance(module, nn.MultiheadAttention)}
    epsilons = {module.eps for module in modules if isinstance(module, nn.LayerNorm)}
    if len(heads) != 1 or len(epsilons) != 1:
        raise UsageError(f"{name}: its blocks differ in heads, or its norms in epsilon")
    quick = any(type(module).__name__ == "QuickGELU" for module in modules)
    return Facts("quick_gelu" if quick else "gelu", epsilons.pop(), heads.pop())


def _compare(model: Any, twin: Any, images: Tensor | None, name: str, layout: str) -> None:
    """Make sure that two networks give the same outputs.

    Raises:
        UnsupportedModel: they do not, or the first one takes something else than images.
    """
    weights = next(model.parameters())
    size = tuple(twin.patch_embed.img_size)
    if images is None or images.ndim != 4 or tuple(images.shape[2:]) != size or images.dtype != weights.dtype:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, *size, generator=generator).to(weights)
    with preserve_model_state(model), preserve_model_state(twin), torch.no_grad():
        try:
            expected = _output(model.eval(), images, layout)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UnsupportedModel(
                f"{name} cannot be explained: it does not take images of {size[0]} × {size[1]} pixels ({reason}); "
                "load its weights into timm's model of the same architecture"
            ) from None
        output = twin.eval()(images)
    difference = float("inf")
    if output.shape == expected.shape:
        scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)  # a new classifier may give 0
        difference = float((output - expected).abs().max() / scale)
    if not difference <= _TOLERANCES.get(weights.dtype, _HALF_TOLERANCE):
        raise UnsupportedModel(
            f"{name} cannot be explained: timm's network with its weights computes something else (relative difference "
            f"of the outputs {difference:.1e}); a changed forward or hooks of other code cannot be taken over"
        )


def _output(model: Any, images: Tensor, layout: str) -> Tensor:
    """Compute what timm's network returns: logits, embeddings, or the features that a classifier would read."""
    if hasattr(model, "encode_image"):
        return model.encode_image(images)
    output = model.get_image_features(pixel_values=images) if hasattr(model, "get_image_features") else model(images)
    if isinstance(output, Tensor):
        return output
    for field in ("logits", "image_embeds"):
        if getattr(output, field, None) is not None:
            return output[field]
    if layout in ("transformers ViT", "transformers DeiT"):  # their pooler is of pre-training
        return output.last_hidden_state[:, 0]
    return output.pooler_output
