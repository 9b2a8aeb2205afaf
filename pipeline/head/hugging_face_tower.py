"""Text towers in folders of ``transformers``: CLIP, SigLIP and SigLIP2. Nothing is downloaded, and no code is run."""

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pipeline.head.tower_parts import EXTRA, ImageSide, TowerParts, refuse_blind_tokenizer
from pipeline.utils.transformers_folder import quiet, read_json
from schemas.errors import UsageError
from schemas.text import first_line
from schemas.text_tower import TextTowerSpec

_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
"""Of ``transformers``, by ``model_type`` in ``config.json``."""
_ACTIVATIONS = {"quick_gelu": "QuickGELU", "gelu": "GELU", "gelu_pytorch_tanh": "GELUTanh"}
"""Class in timm by ``hidden_act``."""


def load_hugging_face(spec: TextTowerSpec) -> TowerParts:
    """Load a model from a folder that ``save_pretrained`` has written, or that was downloaded from the hub.

    Args:
        spec: of the library ``hugging_face``.

    Raises:
        UsageError: the package is missing, or the folder lacks the model, its weights or its tokenizer.
    """
    folder = spec.name
    try:
        import transformers
    except ImportError:
        raise UsageError(f"{folder}: towers of transformers need a missing package; {EXTRA}") from None
    kind = read_json(folder, "config.json").get("model_type")
    if kind not in _CLASSES:
        raise UsageError(f"{folder}: is a model of the type {str(kind)[:80]!r}; only {', '.join(_CLASSES)} embed texts")
    if os.path.exists(os.path.join(folder, "adapter_config.json")):
        raise UsageError(f"{folder}: has an adapter; merge it into the model, and save that")
    local = {"local_files_only": True, "trust_remote_code": False}
    model_class = getattr(transformers, _CLASSES[kind])
    with quiet(transformers.utils.logging):
        try:
            model, loaded = model_class.from_pretrained(folder, output_loading_info=True, **local)
        except Exception as error:  # whatever files of a stranger make of a loader
            raise UsageError(f"{folder}: transformers cannot load it ({first_line(error)})") from None
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        except Exception as error:
            raise UsageError(f"{folder}: has no tokenizer ({first_line(error)}); put its files there") from None
    if missing := sorted(loaded["missing_keys"]) or sorted(str(key) for key in loaded["mismatched_keys"]):
        raise UsageError(
            f"{folder}: its weights are not of a whole {_CLASSES[kind]}: {', '.join(missing[:3])} is missing"
        )
    refuse_blind_tokenizer(tokenizer, folder)
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise UsageError(f"{folder}: its tokenizer has {len(tokenizer)} tokens, more than its text tower knows")
    context = int(model.config.text_config.max_position_embeddings)
    model = model.float().eval()

    def encode(texts: Sequence[str]) -> Tensor:
        # SigLIP was trained with the padding; behind the end of a text CLIP's tower does not look.
        tokens = tokenizer(list(texts), padding="max_length", max_length=context, truncation=True, return_tensors="pt")
        output = model.get_text_features(input_ids=tokens.input_ids.to(model.device))
        return output if isinstance(output, Tensor) else output.pooler_output

    return TowerParts(
        model, context, lambda text: len(tokenizer(text).input_ids), encode, lambda: _image_side(model, folder)
    )


def _image_side(model: Any, folder: str) -> ImageSide:
    config = model.config.vision_config
    if not getattr(config, "vision_use_head", True):
        raise UsageError(f"{folder}: its image tower has no pooler, so images have no embedding")
    # Version 5 of transformers saves one file for both halves of a processor.
    both = read_json(folder, "processor_config.json", required=False).get("image_processor")
    images = both if isinstance(both, dict) else read_json(folder, "preprocessor_config.json", required=False)
    clip = config.model_type == "clip_vision_model"
    return ImageSide(
        "token" if clip else "pool",
        config.hidden_size,
        "backbone head.weight" if clip else "none",
        activation_function=_ACTIVATIONS.get(config.hidden_act, ""),
        mean=tuple(images["image_mean"]) if "image_mean" in images else None,
        std=tuple(images["image_std"]) if "image_std" in images else None,
    )
