"""Small random image–text models in folders, as open_clip and transformers save them, and one that needs neither."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.head.text_tower import TextTower
from pipeline.head.tower_parts import ImageSide, TowerParts
from schemas.text_tower import TextTowerSpec

EMBEDDING = 24
CONTEXT = 16
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
TOWER = {"width": 32, "layers": 3, "image_size": 32, "patch_size": 8, "head_width": 8}
TRUNK = {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}


def spread(model: nn.Module) -> nn.Module:
    """Weights that make a network attend to some tokens, and texts differ."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 or "bias" in name:
            nn.init.normal_(parameter, std=0.25)
    return model.eval()


def open_clip_folder(folder: Path, siglip: bool = False, **changes: Any) -> Any:
    """Write a small CLIP or SigLIP of open_clip, and return it."""
    import open_clip

    config: dict[str, Any] = {"embed_dim": EMBEDDING, "quick_gelu": True, "vision_cfg": TOWER, "text_cfg": TEXT}
    if siglip:  # timm's smallest network with an attention pooler
        trunk = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
        config |= {"embed_dim": 96, "vision_cfg": trunk, "init_logit_bias": -10.0}
    config |= changes
    model: Any = spread((open_clip.CustomTextCLIP if siglip else open_clip.CLIP)(**config))
    model.logit_scale.data.fill_(3.1)
    config |= {"custom_text": True} if siglip else {}
    folder.mkdir()
    of_timm = "timm_model_name" in config["vision_cfg"]  # whose small networks take images of this mean
    images = {"mean": [0.5] * 3, "std": [0.5] * 3} if of_timm else {"mean": CLIP_MEAN, "std": CLIP_STD}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": images}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def word_tokenizer(folder: Path, siglip: bool) -> None:
    """Write a tokenizer of whole words, in the files that transformers reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["a", "photo", "of", "the", "cat", "dog", "mat", "on"]
    names = ["<pad>", "<s>", "</s>", "<unk>", *words]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    form = "$A </s>" if siglip else "<s> $A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=[("<s>", 1), ("</s>", 2)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def hugging_face_folder(folder: Path, siglip: bool = False) -> Any:
    """Write a small CLIP or SigLIP of transformers with a tokenizer, and return it."""
    import transformers

    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {**vision, "num_hidden_layers": 2, "vocab_size": 16, "max_position_embeddings": CONTEXT}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    if siglip:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model: Any = spread(transformers.SiglipModel(config))
        model.logit_bias.data.fill_(-2.5)
    else:
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDING)
        model = spread(transformers.CLIPModel(config))
    model.logit_scale.data.fill_(2.7)
    model.save_pretrained(folder)
    word_tokenizer(folder, siglip)
    images = {"image_mean": [0.5] * 3 if siglip else CLIP_MEAN, "image_std": [0.5] * 3 if siglip else CLIP_STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return model


def fake_tower(sigmoid: bool = False, context: int = 8) -> TextTower:
    """A tower without a library: words are tokens, and each word has a fixed random vector; a text is their sum."""
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.tensor(3.0))
    if sigmoid:
        model.logit_bias = nn.Parameter(torch.tensor([-4.0]))
    side = ImageSide("token", 32, "backbone head.weight", activation_function="QuickGELU", mean=(0.5,) * 3)
    spec = TextTowerSpec(library="hugging_face", name="/towers/fake", sha256="sha256:" + 64 * "0")
    return TextTower(spec, TowerParts(model, context, lambda text: len(text.split()), embed_words, lambda: side))


def embed_words(texts: Sequence[str]) -> Tensor:
    def vector(word: str) -> Tensor:
        seed = sum(ord(char) * 31**index for index, char in enumerate(word))
        return torch.randn(EMBEDDING, generator=torch.Generator().manual_seed(seed))

    return torch.stack([sum((vector(word) for word in text.split()), torch.zeros(EMBEDDING)) for text in texts])
