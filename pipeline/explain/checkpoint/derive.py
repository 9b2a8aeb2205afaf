"""The network that weights are of, where no name of timm is given: from the names and shapes of its tensors."""

import re
from typing import Any

from pipeline.explain.checkpoint.difference import StateDict
from pipeline.explain.checkpoint.layout import Layout
from pipeline.explain.checkpoint.model_config import ImageConfig, ModelConfig
from pipeline.explain.checkpoint.recognize import Renamed
from pipeline.explain.checkpoint.transformers_config import Facts
from schemas.errors import UsageError


def derive_config(given: Renamed, facts: Facts, source: str, images: ImageConfig | None = None) -> ModelConfig:
    """Describe the network of weights.

    Args:
        given: weights of a layout that is known.
        facts: what is known of the network beyond its weights; the number of heads is needed.
        source: of the weights, for error messages.
        images: preparation of its images.

    Raises:
        UsageError: their names and shapes do not tell; the message says what to give instead.
    """
    layout, weights = given.layout, given.weights
    if layout is None or layout.architecture is None or facts.heads is None:
        raise UsageError(
            f"{source}: names and shapes of its tensors do not tell what network it is of; "
            "name one of timm by --model, and give this file by --checkpoint"
        )
    try:
        return _config(layout, weights, facts, images)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        raise UsageError(f"{source}: has not all tensors of {layout.name}; get the whole file") from None


def _config(layout: Layout, weights: StateDict, facts: Facts, images: ImageConfig | None) -> ModelConfig:
    architecture = str(layout.architecture)
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    names = ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1_g.weight")
    hidden = len(next(weights[name] for name in names if name in weights))
    size = patch * int(weights["pos_embed"].shape[1] ** 0.5) if "pos_embed" in weights else facts.image_size
    if size is None:
        raise ValueError("nothing tells the size of the images")
    arguments: dict[str, Any] = {
        "embed_dim": width,
        "depth": len({part[1] for name in weights if (part := re.match(r"blocks\.(\d+)\.", name))}),
        "num_heads": facts.heads,
        "mlp_ratio": (hidden + 0.5) / width,  # timm rounds its product with the width down
        "patch_size": patch,
        "img_size": size,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in weights or "blocks.0.gamma_1" in weights else None,
    }
    if "beit" not in architecture and "dinov3" not in architecture:
        arguments["qkv_bias"] = "blocks.0.attn.qkv.bias" in weights
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    if "dinov3" in architecture:
        arguments["num_reg_tokens"] = registers
    elif "beit" in architecture:
        arguments["use_abs_pos_emb"] = "pos_embed" in weights
        arguments["use_rel_pos_bias"] = "blocks.0.attn.relative_position_bias_table" in weights
        arguments["use_shared_rel_pos_bias"] = "rel_pos_bias.relative_position_bias_table" in weights
    elif hidden != weights["blocks.0.mlp.fc2.weight"].shape[1]:  # gated
        architecture = "vit_giant_patch14_reg4_dinov2" if registers else "vit_giant_patch14_dinov2"
        arguments["reg_tokens"] = registers
    else:
        arguments |= {"reg_tokens": registers, "act_layer": facts.activation or layout.activation or "gelu"}
    return ModelConfig(architecture=architecture, model_args=arguments, pretrained_cfg=images)
