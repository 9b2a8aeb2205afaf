"""Tiny networks of other libraries, which ``test_layouts.py`` compares with timm's.

``layouts.json`` holds names and shapes of their tensors, and their outputs, so that the tests need none of the
libraries. Run this file where open_clip_torch, transformers and torchvision are installed to write it again.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FROZEN = Path(__file__).with_name("layouts.json")
CASES: dict[str, Any] = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "img_size": 32, "patch_size": 8}
_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_IMAGE = {"image_size": 32, "patch_size": 8}
_CLASSES = {"num_labels": 5}
_TEXT = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
_TEXT |= {"bos_token_id": 0, "eos_token_id": 1}


@dataclass(frozen=True)
class Original:
    """A network of another library, and the timm network that it is.

    Attributes:
        architecture: timm name.
        build: creates the network.
        output: what timm's network returns.
        arguments: of timm's constructor.
    """

    architecture: str
    build: Callable[[], nn.Module]
    output: Callable[[Any, Tensor], Tensor]
    arguments: dict[str, Any] = field(default_factory=dict)


def _logits(model: Any, images: Tensor) -> Tensor:
    return model(pixel_values=images).logits


def _pooled(model: Any, images: Tensor) -> Tensor:
    return model(pixel_values=images).pooler_output


def _call(model: Any, images: Tensor) -> Tensor:
    return model(images)


def _of_transformers(network: str, config: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, network)(getattr(transformers, config)(**options))

    return build


def _pair(network: str, family: str, width: int, **options: Any) -> Callable[[], nn.Module]:
    vision, text = _SIZE | _IMAGE, _TEXT | {"hidden_size": width}
    if family == "CLIP":
        vision, text = vision | {"projection_dim": 16}, text | {"projection_dim": 16}
        options |= {"projection_dim": 16}
    return _of_transformers(network, f"{family}Config", {"vision_config": vision, "text_config": text} | options)


def _torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5)


def open_clip_model(quick_gelu: bool = False, **vision: Any) -> Callable[[], nn.Module]:
    """Return what builds a tiny CLIP of open_clip with these options of its image tower."""

    def build() -> nn.Module:
        from open_clip.model import CLIP

        tower = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "mlp_ratio": 2.0}
        text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
        return CLIP(16, tower | vision, text, quick_gelu=quick_gelu)

    return build


def _open_clip_trunk(proj: str | None, pool: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from open_clip.model import CustomTextCLIP

        tower = {"timm_model_name": "test_vit", "timm_pool": pool, "timm_proj": proj, "image_size": 32}
        text = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
        return CustomTextCLIP(16, tower, text)

    return build


def _naflex(model: Any, images: Tensor) -> Tensor:
    """Give SigLIP 2 the patches of square images of its native size."""
    count = len(images)
    patches = images.reshape(count, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(count, 16, 192)
    shapes, mask = torch.tensor([[4, 4]] * count), torch.ones(count, 16, dtype=torch.long)
    return model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes).pooler_output


def _large(model: Any, images: Tensor) -> Tensor:
    """Give a tower images of 160 × 160 pixels, the size of timm's ``test_vit``."""
    return model.encode_image(images.repeat(1, 1, 5, 5))


_VIT = _SIZE | _IMAGE
_DINOV2 = _VIT | {"mlp_ratio": 2}
_DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
_SHARED = {
    "use_shared_relative_position_bias": True,
    "use_mean_pooling": False,
    "use_absolute_position_embeddings": True,
}
_TIMM_SHARED = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "use_abs_pos_emb": True}
_QUICK, _GELU = "vit_base_patch32_clip_quickgelu_224", "vit_base_patch32_clip_224"
_SIGLIP = "vit_base_patch16_siglip_224"
_VITS = "vit_tiny_patch16_224"

ORIGINALS = {
    "ViT": Original(_VITS, _of_transformers("ViTForImageClassification", "ViTConfig", _VIT | _CLASSES), _logits),
    "ViT backbone": Original(
        _VITS, _of_transformers("ViTModel", "ViTConfig", _VIT), lambda model, x: model(x).last_hidden_state[:, 0]
    ),
    "ViT of MAE": Original(
        _VITS,
        _of_transformers("ViTMAEForPreTraining", "ViTMAEConfig", _VIT | _DECODER | {"mask_ratio": 0.0}),
        lambda model, x: model.vit(x).last_hidden_state[:, 0],
    ),
    "ViT without biases": Original(
        _VITS,
        _of_transformers("ViTForImageClassification", "ViTConfig", _VIT | _CLASSES | {"qkv_bias": False}),
        _logits,
        {"qkv_bias": False},
    ),
    "DeiT distilled": Original(
        "deit_tiny_distilled_patch16_224",
        _of_transformers("DeiTForImageClassificationWithTeacher", "DeiTConfig", _VIT | _CLASSES),
        _logits,
    ),
    "DeiT": Original(
        "deit_tiny_patch16_224",
        _of_transformers("DeiTForImageClassification", "DeiTConfig", _VIT | _CLASSES),
        _logits,
    ),
    "BEiT": Original(
        "beit_base_patch16_224",
        _of_transformers(
            "BeitForImageClassification", "BeitConfig", _VIT | _CLASSES | {"use_relative_position_bias": True}
        ),
        _logits,
    ),
    "BEiT shared": Original(
        "beit_base_patch16_224",
        _of_transformers("BeitForImageClassification", "BeitConfig", _VIT | _CLASSES | _SHARED),
        _logits,
        _TIMM_SHARED,
    ),
    "DINOv2": Original(
        "vit_small_patch14_dinov2",
        _of_transformers("Dinov2ForImageClassification", "Dinov2Config", _DINOV2 | _CLASSES),
        _logits,
    ),
    "DINOv2 backbone": Original(
        "vit_small_patch14_dinov2", _of_transformers("Dinov2Model", "Dinov2Config", _DINOV2), _pooled
    ),
    "DINOv2 gated": Original(
        "vit_giant_patch14_dinov2",
        _of_transformers("Dinov2Model", "Dinov2Config", _DINOV2 | {"use_swiglu_ffn": True}),
        _pooled,
        {"mlp_ratio": 3},
    ),
    "DINOv2 registers": Original(
        "vit_small_patch14_reg4_dinov2",
        _of_transformers("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", _DINOV2 | _CLASSES),
        _logits,
    ),
    "DINOv3": Original(
        "vit_small_patch16_dinov3_qkvb",
        _of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", _VIT | {"num_register_tokens": 4}),
        _pooled,
    ),
    "DINOv3 gated": Original(
        "vit_small_plus_patch16_dinov3_qkvb",
        _of_transformers(
            "DINOv3ViTModel",
            "DINOv3ViTConfig",
            _VIT | {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        ),
        _pooled,
    ),
    "CLIP": Original(
        _QUICK,
        _pair("CLIPModel", "CLIP", 16),
        lambda model, x: model.visual_projection(model.vision_model(x).pooler_output),
    ),
    "CLIP tower": Original(
        _QUICK,
        _of_transformers("CLIPVisionModelWithProjection", "CLIPVisionConfig", _VIT | {"projection_dim": 16}),
        lambda model, x: model(x).image_embeds,
    ),
    "CLIP backbone": Original(_QUICK, _of_transformers("CLIPVisionModel", "CLIPVisionConfig", _VIT), _pooled),
    "CLIP classifier": Original(_QUICK, _pair("CLIPForImageClassification", "CLIP", 16, **_CLASSES), _logits),
    "SigLIP": Original(
        _SIGLIP, _pair("SiglipModel", "Siglip", 32), lambda model, x: model.vision_model(x).pooler_output
    ),
    "SigLIP tower": Original(_SIGLIP, _of_transformers("SiglipVisionModel", "SiglipVisionConfig", _VIT), _pooled),
    "SigLIP classifier": Original(_SIGLIP, _pair("SiglipForImageClassification", "Siglip", 32, **_CLASSES), _logits),
    "SigLIP 2 NaFlex": Original(
        _SIGLIP,
        _of_transformers("Siglip2VisionModel", "Siglip2VisionConfig", _SIZE | {"num_patches": 16, "patch_size": 8}),
        _naflex,
    ),
    "torchvision": Original("vit_base_patch16_224", _torchvision, _call),
    "open_clip": Original(_QUICK, open_clip_model(quick_gelu=True), lambda model, x: model.encode_image(x)),
    "open_clip layer scale": Original(
        _GELU, open_clip_model(ls_init_value=0.1), lambda model, x: model.encode_image(x), {"init_values": 0.1}
    ),
    "open_clip tower": Original(_GELU, lambda: open_clip_model()().visual, _call),  # type: ignore[arg-type, return-value]
    "open_clip trunk": Original("test_vit", _open_clip_trunk("linear", "token"), _large),
    "open_clip trunk, its own projection": Original("test_vit", _open_clip_trunk(None, "token"), _large),
    "open_clip trunk, none": Original("test_vit", _open_clip_trunk("none", "map"), _large),
}


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors of these shapes, the same everywhere: no random numbers, which differ between versions."""
    weights = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        values = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        weights[name] = (0.25 * torch.sin(1.7 * values + index)).reshape(shape).float()
    return weights


def images() -> Tensor:
    """The images of all outputs, float64 [2, 3, 32, 32]."""
    return torch.sin(0.37 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64)).reshape(2, 3, 32, 32)


def fill(model: Any) -> dict[str, Tensor]:
    """Give a network the values of ``filled``, and float64; return its weights as they were in float32."""
    own = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    model.load_state_dict(filled({name: list(tensor.shape) for name, tensor in own.items()}), strict=False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.double().eval()
    return weights


def saved(model: Any) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """The network read from a file that has the values of ``filled`` under the names that ``save_pretrained`` writes.

    Returns:
        The network in float64, and the weights in the file; None where the names are those in memory.
    """
    if not hasattr(model, "save_pretrained"):
        return None
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.safetensors"
        model.save_pretrained(folder)
        names = load_file(file)
        if names.keys() == model.state_dict().keys():
            return None
        weights = filled({name: list(tensor.shape) for name, tensor in names.items()})
        save_file(weights, file, {"format": "pt"})
        return type(model).from_pretrained(folder).double().eval(), weights


PREPROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4], "resample": 2}
PREPROCESSOR |= {"size": {"height": 224, "width": 224}}
CONFIG = {"model_type": "any", "num_attention_heads": 4, "image_size": 32}
ACTIVATIONS = {"CLIP": "quick_gelu", "SigLIP": "gelu_pytorch_tanh", "DINOv3 gated": "silu"}
EPSILONS = {"ViT": 1e-12, "DeiT": 1e-12, "BEiT": 1e-12, "DINOv2": 1e-6, "DINOv3": 1e-5, "CLIP": 1e-5, "SigLIP": 1e-6}


def folder(path: Path, case: str, names: str = "memory", **config: Any) -> str:
    """Write a folder as transformers does, of a case in ``layouts.json``; return its name as a model."""
    from safetensors.torch import save_file

    path.mkdir(exist_ok=True)
    save_file(filled(CASES[case][names]["shapes"]), path / "model.safetensors")
    family = next(name for name in EPSILONS if case.startswith(name))
    fields = {"hidden_act": ACTIVATIONS.get(case, ACTIVATIONS.get(family, "gelu")), "layer_norm_eps": EPSILONS[family]}
    fields |= {"use_swiglu_ffn": True} if case == "DINOv2 gated" else {}
    (path / "config.json").write_text(json.dumps(CONFIG | fields | config))
    (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return f"local-dir:{path}"


def states(original: Original) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """Weights of a network under the names in memory, and in a file where those differ, each with its output."""
    model = original.build()
    weights = fill(model)
    found = {"memory": (weights, _output(original, model))}
    if read := saved(model):
        found["saved"] = (read[1], _output(original, read[0]))
    return found


def _output(original: Original, model: nn.Module) -> Tensor:
    with torch.no_grad():
        return original.output(model, images())


def main() -> None:
    """Write ``layouts.json``."""
    lines = []
    for name, original in ORIGINALS.items():
        entry = {
            names: {
                "shapes": {key: list(tensor.shape) for key, tensor in weights.items()},
                "output": [[round(value, 12) for value in row[:5]] for row in output.tolist()],
            }
            for names, (weights, output) in states(original).items()
        }
        lines.append(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}")
    FROZEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
