"""Networks of other libraries in Python: explained as the networks of timm that they are, or refused."""

from typing import Any

import pytest
import torch
from explain.original_networks import ORIGINALS, fill, images, open_clip_model
from PIL import Image
from torch import nn

from pipeline.explain import UnsupportedModel, as_timm, describe, explain, prepare
from pipeline.explain.checkpoint import ModelConfig
from schemas.errors import UsageError

CLASSIFIERS = ("ViT", "DeiT distilled", "DeiT", "BEiT", "BEiT shared", "DINOv2", "DINOv2 registers")
CLASSIFIERS += ("CLIP classifier", "SigLIP classifier")
TOWERS = ("ViT backbone", "DINOv2 backbone", "DINOv2 gated", "DINOv3", "DINOv3 gated", "CLIP", "CLIP tower")
TOWERS += ("CLIP backbone", "SigLIP", "SigLIP tower", "open_clip", "open_clip layer scale", "open_clip tower")


def original(name: str) -> Any:
    pytest.importorskip(
        "open_clip" if "open_clip" in name else "torchvision" if name == "torchvision" else "transformers"
    )
    model = ORIGINALS[name].build()
    fill(model)
    return model


@pytest.mark.parametrize("name", ["torchvision", *CLASSIFIERS])
def test_a_classifier_is_explained_as_it_is(name: str) -> None:
    model = original(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    maps = explain(model, images(), 3, ["legrad", "grad_input"])
    with torch.no_grad():
        expected = ORIGINALS[name].output(model, images())
    torch.testing.assert_close(maps.logits, expected, rtol=1e-7, atol=1e-7)
    assert maps["legrad"].shape == (2, 1, *describe(model).grid)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_becomes_timms_and_needs_a_head(name: str) -> None:
    model = original(name)
    twin = as_timm(model)
    with torch.no_grad():
        torch.testing.assert_close(twin(images()), ORIGINALS[name].output(model, images()), rtol=1e-7, atol=1e-7)
    with pytest.raises(UnsupportedModel, match=r"no classifier|embedding space|Head.load"):
        describe(model)


def test_the_twin_shares_tensors_and_precision() -> None:
    model = original("torchvision")
    twin: Any = as_timm(model)
    assert twin.norm.weight.data_ptr() == model.encoder.ln.weight.data_ptr()
    assert twin.head.weight.dtype == torch.float64
    assert twin.training is model.training is False
    assert as_timm(model.train()).training
    assert model.training


def test_networks_of_timm_and_of_nobody_are_themselves() -> None:
    for model in (ModelConfig(architecture="test_vit").build(), nn.Linear(2, 2)):
        assert as_timm(model) is model


def test_a_network_with_a_changed_forward_is_refused() -> None:
    model = original("torchvision")
    model.encoder.ln.forward = lambda tokens: 1.01 * tokens
    with pytest.raises(UnsupportedModel, match=r"VisionTransformer of torchvision .* computes something else"):
        explain(model, images(), 0, "legrad")
    del model.encoder.ln.forward
    model.encoder.ln.register_forward_hook(lambda module, args, output: 1.01 * output)
    with pytest.raises(UnsupportedModel, match=r"encoder.ln has a hook of other code"):
        explain(model, images(), 0, "legrad")


def test_another_size_of_images_is_named() -> None:
    with pytest.raises(Exception, match=r"this model takes \[B, 3, 32, 32\]"):
        explain(original("torchvision"), images()[:, :, :16], 0, "legrad")


def test_other_networks_of_these_libraries_are_refused_in_a_sentence() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Siglip2VisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_patches=16, patch_size=8
    )
    with pytest.raises(UnsupportedModel, match="does not take images"):
        describe(transformers.Siglip2VisionModel(config))
    with pytest.raises(UnsupportedModel, match="none that timm has"):
        describe(
            transformers.SwinModel(transformers.SwinConfig(embed_dim=12, depths=[1], num_heads=[2], image_size=32))
        )


def test_networks_of_open_clip_that_timm_does_not_have_are_refused() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(UnsupportedModel, match=r"wraps a VisionTransformer; give that, model\.visual\.trunk"):
        describe(ORIGINALS["open_clip trunk"].build())
    for vision in ({"no_ln_pre": True}, {"attentional_pool": True}):
        with pytest.raises(UnsupportedModel, match=r"CLIP of open_clip .*: (is not a checkpoint|its blocks differ)"):
            describe(open_clip_model(**vision)())
    for vision in ({"pool_type": "avg"}, {"final_ln_after_pool": True, "pool_type": "avg"}):
        with pytest.raises(UnsupportedModel, match="computes something else"):
            describe(open_clip_model(**vision)())


def test_images_are_prepared_only_where_the_network_says_how() -> None:
    image = Image.new("RGB", (40, 30), (128, 128, 128))
    prepared = prepare(original("torchvision"), image)
    torch.testing.assert_close(
        prepared[0, :, 0, 0].float(),
        (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]),
    )
    with pytest.raises(UsageError, match="does not say how its images are normalized"):
        prepare(original("ViT"), image)
