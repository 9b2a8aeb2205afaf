"""Text towers of open_clip: an architecture with a weights file, or a folder with both. Nothing is downloaded."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pipeline.explain.checkpoint import find_weights
from pipeline.explain.checkpoint.difference import compare
from pipeline.explain.checkpoint.recognize import without_prefix
from pipeline.explain.checkpoint.weights_file import read_weights
from pipeline.head.tower_parts import (
    EXTRA,
    ImageSide,
    TowerParts,
    activation_name,
    describe_timm,
    refuse_blind_tokenizer,
)
from schemas.errors import UsageError
from schemas.text import first_line, suggest
from schemas.text_tower import TextTowerSpec

CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_DEFAULT_CONTEXT = 77
_SPECIAL_TOKENS = 2
"""Of CLIP's own tokenizer: start and end."""


def load_open_clip(spec: TextTowerSpec) -> TowerParts:
    """Build a model of open_clip and load its weights.

    Args:
        spec: of the library ``open_clip``.

    Raises:
        UsageError: the package is missing, there is no such architecture, file or tokenizer, or the weights are of
            another architecture.
    """
    try:
        import open_clip
    except ImportError:
        raise UsageError(f"{spec.name}: towers of open_clip need a missing package; {EXTRA}") from None
    config, images = _config(spec, open_clip)
    text = config["text_cfg"]
    tokenizer, count = _tokenizer(spec, text, open_clip)
    model = _build(config, spec.name, open_clip)
    _load(model, spec.weights or _find_weights(str(spec.folder)), spec.name, open_clip)
    context = int(model.context_length)

    def encode(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), context_length=context)
        return model.encode_text(tokens.to(model.logit_scale.device))

    return TowerParts(model, context, count, encode, lambda: _image_side(model, spec.name, images))


def _config(spec: TextTowerSpec, open_clip: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the arguments of a model, and what is known of its images: one entry for each set of weights."""
    if spec.folder is None:
        if spec.name not in (known := open_clip.list_models()):  # another name may be one of the hub
            hint = suggest(spec.name, known) or "; see open_clip.list_models()"
            raise UsageError(f"open_clip has no architecture {spec.name!r}{hint}")
        config = open_clip.get_model_config(spec.name)
        tags = open_clip.list_pretrained_tags_by_model(spec.name)
        return config, [open_clip.get_pretrained_cfg(spec.name, tag) for tag in tags]
    path = os.path.join(spec.folder, CONFIG)
    try:
        with open(path, "rb") as file:
            content = json.load(file)
        config, images = content["model_cfg"], content.get("preprocess_cfg") or {}
        if not all(isinstance(part, dict) for part in (config, images, config["text_cfg"], config["vision_cfg"])):
            raise TypeError("its parts must be mappings")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; name a folder as open_clip saves it") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: is not a config of open_clip ({first_line(error)})") from None
    return config, [images]


def _build(config: dict[str, Any], name: str, open_clip: Any) -> Any:
    """Build a model without weights, as ``open_clip.create_model`` does."""
    config = {**config, "vision_cfg": {**config["vision_cfg"], "timm_model_pretrained": False}}
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        raise UsageError(
            f"{name}: its text tower is one of Hugging Face, or writes captions; only CLIP and SigLIP are supported"
        )
    model_class = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    try:
        return model_class(**config).float().eval()
    except Exception as error:  # whatever a config of a stranger makes of a constructor
        raise UsageError(f"{name}: open_clip cannot build it ({first_line(error)})") from None


def _find_weights(folder: str) -> str:
    """Return the weights file of a folder; ``model.safetensors`` beside it may be the image tower alone, for timm."""
    paths = [os.path.join(folder, name) for name in _WEIGHTS]
    return next((path for path in paths if os.path.isfile(path)), None) or find_weights(folder)


def _load(model: nn.Module, path: str, name: str, open_clip: Any) -> None:
    """Load a weights file, all of it; reading it runs no code."""
    weights = without_prefix(read_weights(path))
    expected = model.state_dict()
    if "positional_embedding" in weights and "positional_embedding" not in expected:
        weights = open_clip.model.convert_to_custom_text_state_dict(weights)
    for key in ("logit_scale", "logit_bias"):  # a scalar or one number, by the version that wrote the file
        if key in weights and key in expected and weights[key].numel() == expected[key].numel():
            weights[key] = weights[key].reshape(expected[key].shape)
    if len(difference := compare(weights, model)):
        raise UsageError(f"{path}: is not a checkpoint of {name} of open_clip: {difference}")
    model.load_state_dict(weights)


def _tokenizer(spec: TextTowerSpec, text: dict[str, Any], open_clip: Any) -> tuple[Any, Any]:
    """Return the tokenizer of a tower, and a function that counts the tokens of a text."""
    options = dict(text.get("tokenizer_kwargs") or {})
    context = text.get("context_length", _DEFAULT_CONTEXT)
    source = spec.folder or text.get("hf_tokenizer_name")
    if options.get("reduction_mask"):
        raise UsageError(f"{spec.name}: its tokenizer leaves out words of a text at random, which is not supported")
    if not text.get("hf_tokenizer_name"):
        simple = open_clip.SimpleTokenizer(context_length=context, **options)
        return simple, lambda text: len(simple.encode(text)) + _SPECIAL_TOKENS
    if mode := text.get("tokenizer_mode"):
        raise UsageError(f"{spec.name}: its tokenizer of the mode {mode!r} is not supported")
    try:
        from transformers import AutoTokenizer  # noqa: F401 – what the next line needs

        tokenizer = open_clip.tokenizer.HFTokenizer(source, context_length=context, local_files_only=True, **options)
    except ImportError:
        raise UsageError(f"{spec.name}: its tokenizer needs a missing package; {EXTRA}") from None
    except Exception as error:  # OSError without the files; others by what the files hold
        where = f"put its files into {source}" if spec.folder else f"get it by: hf download {source}"
        raise UsageError(
            f"{spec.name}: its tokenizer {source} is not on this machine ({first_line(error)}); {where}"
        ) from None
    refuse_blind_tokenizer(tokenizer.tokenizer, str(source))
    return tokenizer, lambda text: len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)


def _image_side(model: Any, name: str, images: list[dict[str, Any]]) -> ImageSide:
    """Describe the image tower, and the images that all known weights of it take."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    visual = model.visual
    side = _of_trunk(visual, name) if hasattr(visual, "trunk") else _of_native(visual, name)
    means = {tuple(config.get("mean") or OPENAI_DATASET_MEAN) for config in images}
    deviations = {tuple(config.get("std") or OPENAI_DATASET_STD) for config in images}
    return replace(
        side, mean=means.pop() if len(means) == 1 else None, std=deviations.pop() if len(deviations) == 1 else None
    )


def _of_native(visual: Any, name: str) -> ImageSide:
    if not hasattr(visual, "class_embedding") or visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise UsageError(
            f"{name}: its image tower, {type(visual).__name__}, is neither a plain vision transformer nor a network of "
            "timm that reads the mean of its features"
        )
    return ImageSide(
        "token" if visual.pool_type == "tok" else "mean",
        visual.conv1.out_channels,
        "backbone head.weight",
        activation_function=activation_name(visual.transformer.resblocks[0].mlp, "gelu"),
    )


def _of_trunk(visual: Any, name: str) -> ImageSide:
    """Describe a tower whose trunk is a network of timm, with a projection of open_clip behind it or without."""
    layers = dict(visual.head.named_children())
    if layers.keys() - {"drop", "proj"}:
        raise UsageError(f"{name}: its image tower projects by {', '.join(layers)}; a head has one linear layer")
    side = describe_timm(visual.trunk, name)
    if "proj" not in layers:
        return side
    bias = layers["proj"].bias
    tensors = {"projection": layers["proj"].weight} | ({} if bias is None else {"projection_bias": bias})
    return replace(side, projection="tensor", tensors=tensors)
