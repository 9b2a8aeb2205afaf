"""The layouts that can be read. To read another, add an entry to ``LAYOUTS``."""

from dataclasses import replace

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pipeline.explain.checkpoint.difference import StateDict
from pipeline.explain.checkpoint.layout import Layout, Rows


def _registers_without_positions(weights: StateDict) -> StateDict:
    """Add the position of the class token to it: timm's networks with registers have positions for patches only."""
    positions, token = weights.get("pos_embed"), weights.get("cls_token")
    if positions is None or token is None:
        return weights
    return weights | {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}


def _vectors_as_tokens(weights: StateDict) -> StateDict:
    """Turn a class token [D] and positions [n, D] into [1, 1, D] and [1, n, D]."""
    shaped = dict(weights)
    for name in ("cls_token", "pos_embed"):
        if name in shaped and shaped[name].ndim < 3:
            shaped[name] = shaped[name].reshape(1, -1, shaped[name].shape[-1])
    return shaped


def _with_zero_head_bias(weights: StateDict) -> StateDict:
    """Give a projection the bias that timm's has: 0."""
    head = weights.get("head.weight")
    if head is None or "head.bias" in weights or head.ndim != 2:
        return weights
    return weights | {"head.bias": head.new_zeros(len(head))}


def _clip(weights: StateDict) -> StateDict:
    return _with_zero_head_bias(_vectors_as_tokens(weights))


def _open_clip(weights: StateDict) -> StateDict:
    """Transpose the projection [D, E]."""
    projection = weights.get("proj")
    if projection is not None and projection.ndim == 2:
        weights = {name: tensor for name, tensor in weights.items() if name != "proj"}
        weights["head.weight"] = projection.T.contiguous()
    return _clip(weights)


def _siglip(weights: StateDict) -> StateDict:
    """Separate the query of the pooler from its keys and values, and make a convolution of a linear patch embedding."""
    weights = _vectors_as_tokens(weights)
    for kind in ("weight", "bias"):
        joint = weights.pop(f"attn_pool.in_proj_{kind}", None)
        if joint is not None:
            width = len(joint) // 3
            weights |= {f"attn_pool.q.{kind}": joint[:width], f"attn_pool.kv.{kind}": joint[width:]}
    patches = weights.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 2:  # SigLIP 2 NaFlex: rows, columns, channels of a patch
        side = round((patches.shape[1] / 3) ** 0.5)
        if 3 * side * side == patches.shape[1]:
            kernel = patches.reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
            weights["patch_embed.proj.weight"] = kernel
    return weights


_TRANSFORMERS: Rows = (
    (r"^(vit|deit|beit|dinov2|dinov2_with_registers|vision_model|model)\.", ""),
    (r"^embeddings\.", ""),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^class_embedding$", "cls_token"),
    (r"^position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^patch_embeddings?(\.projection)?\.", "patch_embed.proj."),
    (r"\.attention\.attention\.", ".attention."),
    (r"^(blocks\.\d+)\.(attention|self_attn)\.(query|q_proj)\.", r"\1.attn.qkv[0]."),
    (r"^(blocks\.\d+)\.(attention|self_attn)\.(key|k_proj)\.", r"\1.attn.qkv[1]."),
    (r"^(blocks\.\d+)\.(attention|self_attn)\.(value|v_proj)\.", r"\1.attn.qkv[2]."),
    (r"^(blocks\.\d+)\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.(layernorm_before|layer_norm1)\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.(layernorm_after|layer_norm2)\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"^pre_layrnorm\.", "norm_pre."),  # so in their code
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^(classifier|visual_projection)\.", "head."),
)
"""Names of transformers: those that versions 4 and 5 save, and those that the models of version 5 have."""

_NO_KEY_BIAS: Rows = ((r"\.qkv\[0\]\.bias$", ".q_bias"), (r"\.qkv\[2\]\.bias$", ".v_bias"))
_BLOCK_CHUNKS: Rows = ((r"\bblocks\.\d+\.(\d+)\.", r"blocks.\1."),)
_TEXT = (r"^text_model\.", r"^text_projection\.", r"^logit_(scale|bias)$", r"^position_ids$")

_VIT = Layout(
    name="transformers ViT",
    marks=(r"layernorm_before\.weight$", r"(^|\.)cls_token$"),
    architecture="vit_base_patch16_224",
    rows=_TRANSFORMERS,
    unused=(r"^pooler\.", r"^decoder\.", r"^mask_token$"),
    read_out="token",
    epsilon=1e-12,
    activation="gelu",
)
_DINOV2 = Layout(
    name="transformers DINOv2",
    marks=(r"layer_scale1\.lambda1$", r"position_embeddings$"),
    architecture="vit_base_patch14_dinov2",
    rows=(
        *_TRANSFORMERS,
        (r"\.mlp\.(weights_in|gate_proj)\.", ".mlp.fc1[0]."),
        (r"\.mlp\.up_proj\.", ".mlp.fc1[1]."),
        (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
        (r"^register_tokens$", "reg_token"),
    ),
    unused=(r"^mask_token$",),
    read_out="token+mean",
    backbone_read_out="token",
    epsilon=1e-6,
    activation="gelu",
)
_DINOV3 = Layout(
    name="transformers DINOv3",
    marks=(r"layer_scale1\.lambda1$", r"register_tokens$", r"up_proj\.weight$"),
    architecture="vit_base_patch16_dinov3_qkvb",
    rows=(
        *_TRANSFORMERS,
        *_NO_KEY_BIAS,
        (r"\.ls([12])\.gamma$", r".gamma_\1"),
        (r"\.mlp\.up_proj\.", ".mlp.fc1."),
        (r"\.mlp\.down_proj\.", ".mlp.fc2."),
        (r"^register_tokens$", "reg_token"),
    ),
    unused=(r"^mask_token$", r"^rope_embeddings\."),
    read_out="token",
    epsilon=1e-5,
    activation="gelu",
)
_CLIP = Layout(
    name="transformers CLIP",
    marks=(r"class_embedding$", r"pre_layrnorm\.weight$"),
    architecture="vit_base_patch16_clip_224",
    rows=_TRANSFORMERS,
    unused=_TEXT,
    read_out="token",
    epsilon=1e-5,
    activation="quick_gelu",
    projects=True,
    finish=_clip,
)
_SIGLIP = Layout(
    name="transformers SigLIP",
    marks=(r"(^|\.)head\.probe$",),
    architecture="vit_base_patch16_siglip_224",
    rows=(
        (r"^(vision_model\.)?head\.(attention\.)?(?=probe|in_proj|out_proj|layernorm|mlp)", "attn_pool."),
        (r"^attn_pool\.probe$", "attn_pool.latent"),
        (r"^attn_pool\.out_proj\.", "attn_pool.proj."),
        (r"^attn_pool\.layernorm\.", "attn_pool.norm."),
        *_TRANSFORMERS,
    ),
    unused=_TEXT,
    read_out="map",
    epsilon=1e-6,
    activation="gelu_tanh",
    finish=_siglip,
)
_TORCHVISION = Layout(
    name="torchvision",
    marks=(r"^conv_proj\.weight$", r"^encoder\.pos_embedding$"),
    architecture="vit_base_patch16_224",
    rows=(
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.self_attention\.in_proj_", ".attn.qkv."),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
        (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
        (r"^encoder\.ln\.", "norm."),
        (r"^heads\.head\.", "head."),
    ),
    read_out="token",
    epsilon=1e-6,
    activation="gelu",
    normalization=(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
)
_OPEN_CLIP = Layout(
    name="open_clip",
    marks=(r"^class_embedding$", r"^transformer\.resblocks\.", r"^ln_post\.weight$"),
    architecture="vit_base_patch16_clip_224",
    rows=(
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^conv1\.", "patch_embed.proj."),
        (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.ls_([12])\.", r".ls\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
    ),
    read_out="token",
    epsilon=1e-5,
    projects=True,
    finish=_open_clip,
)
_TRUNK = Layout(
    name="open_clip with a timm trunk",
    marks=(r"^trunk\.",),
    rows=((r"^trunk\.", ""), (r"^head\.proj\.", "head.")),
    projects=True,
    finish=_with_zero_head_bias,
)


def _in_a_pair(layout: Layout, mark: str) -> Layout:
    """Return the layout of a whole image–text model, whose image tower stands under ``visual.``."""
    rows = ((r"^(?!visual\.)", "text."), (r"^visual\.", ""), *layout.rows)
    return replace(layout, marks=(mark,), rows=rows, unused=(*layout.unused, r"^text\."))


LAYOUTS: tuple[Layout, ...] = (
    replace(
        _VIT,
        name="transformers BEiT",
        architecture="beit_base_patch16_224",
        marks=(r"lambda_1$", r"layernorm_before\.weight$"),
        rows=(
            (r"^(beit\.)?pooler\.layernorm\.", "fc_norm."),
            (r"^(beit\.)?(encoder\.relative_position_bias|shared_position_bias)\.", "rel_pos_bias."),
            *_TRANSFORMERS,
            *_NO_KEY_BIAS,
            (r"\.lambda_([12])$", r".gamma_\1"),
            (r"(\.attention)?\.relative_position_bias\.", ".attn."),
        ),
        unused=(r"^mask_token$", r"relative_position_index$"),
        read_out=None,
    ),
    replace(
        _VIT,
        name="transformers DeiT, distilled",
        architecture="deit_base_distilled_patch16_224",
        marks=(r"distillation_token$", r"distillation_classifier\.weight$"),
        rows=(
            *_TRANSFORMERS,
            (r"^distillation_token$", "dist_token"),
            (r"^cls_classifier\.", "head."),
            (r"^distillation_classifier\.", "head_dist."),
        ),
    ),
    replace(
        _VIT,
        name="transformers DeiT",
        marks=(r"distillation_token$", r"layernorm_before\.weight$"),
        rows=(*_TRANSFORMERS, (r"^distillation_token$", "reg_token")),
        arguments={"reg_tokens": 1, "no_embed_class": False},
    ),
    _VIT,
    replace(
        _DINOV2,
        name="transformers DINOv2 with registers",
        architecture="vit_base_patch14_reg4_dinov2",
        marks=(*_DINOV2.marks, r"register_tokens$"),
        finish=_registers_without_positions,
    ),
    _DINOV2,
    replace(
        _DINOV3,
        name="transformers DINOv3, gated",
        architecture="vit_small_plus_patch16_dinov3_qkvb",
        marks=(*_DINOV3.marks, r"gate_proj\.weight$"),
        rows=((r"\.gate_proj\.", ".fc1_g."), (r"\.mlp\.up_proj\.", ".mlp.fc1_x."), *_DINOV3.rows),
        activation="silu",
    ),
    _DINOV3,
    replace(
        _CLIP,
        name="transformers CLIP classifier",
        marks=(*_CLIP.marks, r"^classifier\.weight$"),
        unused=(*_TEXT, r"^norm\."),
        read_out="avg",
        projects=False,
        arguments={"final_norm": False},
    ),
    _CLIP,
    replace(
        _SIGLIP,
        name="transformers SigLIP classifier",
        marks=(*_SIGLIP.marks, r"^classifier\.weight$"),
        unused=(*_TEXT, r"^attn_pool\."),
        read_out="avg",
        arguments={"fc_norm": False},
    ),
    _SIGLIP,
    _TORCHVISION,
    _in_a_pair(_OPEN_CLIP, r"^visual\.class_embedding$"),
    _in_a_pair(_TRUNK, r"^visual\.trunk\."),
    _OPEN_CLIP,
    _TRUNK,
    Layout(
        name="MAE pre-training",
        marks=(r"^decoder_embed\.weight$", r"^blocks\."),
        rows=(),
        unused=(r"^decoder_", r"^mask_token$"),
    ),
    Layout(
        name="DINO training",
        marks=(r"^backbone\.(cls_token|pos_embed)$", r"^(head|dino_head|ibot_head)\.(?!(weight|bias)$)"),
        rows=((r"^(?!backbone\.)", "training."), (r"^backbone\.", ""), *_BLOCK_CHUNKS),
        unused=(r"^training\.",),
    ),
    Layout(name="blocks in chunks", marks=(r"^cls_token$", r"^blocks\.\d+\.\d+\."), rows=_BLOCK_CHUNKS),
)
"""The first that matches is taken."""
