"""Model families: those that are registered are supported, and only those."""

from typing import Any

import pytest
import timm
import torch
from support import FAMILIES, images_for, small_vit

from pipeline.explain import Anatomy, UnsupportedModel, describe
from pipeline.explain.load import create_model
from pipeline.explain.module_classes import ATTENTIONS, BLOCKS
from pipeline.explain.network import Requirement

CLASSES = [(table, cls) for table in (BLOCKS, ATTENTIONS) for cls in table]


@pytest.mark.parametrize(("table", "cls"), CLASSES, ids=lambda value: getattr(value, "__qualname__", ""))
def test_a_class_is_all_that_a_family_needs(table: dict[type, str], cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    example = table[cls]
    model = small_vit(example)
    block = model.blocks[0]
    assert type(block if table is BLOCKS else block.attn) is cls
    assert example in {options.get("name", "vit_tiny_patch16_224") for options in FAMILIES.values()}
    assert isinstance(describe(model), Anatomy)
    monkeypatch.delitem(table, cls)
    network = describe(model)
    assert not isinstance(network, Anatomy)
    reason = network.missing[Requirement.ATTENTION]
    assert "is not a pre-norm block" in reason or "which is not softmax attention" in reason


TOWERS = [
    name
    for name in timm.list_pretrained()
    if any(part in name for part in ("_clip_", "_siglip_", "_mci_", "_pe_core_")) and "_ft_" not in name
    if timm.models.model_entrypoint(name.partition(".")[0]).__module__.endswith((".vision_transformer", ".eva"))
]
"""Every weight set that timm has of a transformer with a text tower beside it."""


def on_meta(name: str, **options: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, **({"depth": 1} | options))


def test_no_tower_of_an_image_text_model_passes_as_a_classifier() -> None:
    assert len(TOWERS) > 100
    for name in TOWERS:
        with pytest.raises(UnsupportedModel) as refusal:
            describe(on_meta(name))
        reasons = ("embedding space", "no classifier", "pre-norm", "pooler", "has no")
        assert any(reason in str(refusal.value) for reason in reasons), name


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("vit_base_patch32_clip_224.openai_ft_in1k", 1000),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k", 11821),
        ("eva02_large_patch14_clip_224.merged2b", 10),
        ("vit_base_patch32_clip_224.openai", 1000),
    ],
)
def test_a_fine_tuned_tower_is_a_classifier(name: str, classes: int) -> None:
    options = {} if "_ft_" in name else {"num_classes": classes}
    assert describe(on_meta(name, **options)).classes == classes


def test_a_tower_under_another_name_is_known_by_its_norm() -> None:
    arguments = {"pre_norm": True, "num_classes": 512}
    with pytest.raises(UnsupportedModel, match=r"512 channels, which are no classes"):
        describe(on_meta("vit_base_patch32_224", **arguments))
    named = on_meta("vit_base_patch32_224", **arguments)
    named.pretrained_cfg = named.pretrained_cfg | {"label_names": [f"class {number}" for number in range(512)]}
    assert describe(named).classes == 512


def test_one_logit_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="one logit"):
        describe(small_vit(num_classes=1))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dynamic_img_pad": True, "dynamic_img_size": True, "img_size": 44}, "pads images"),
        ({"dynamic_img_pad": True, "dynamic_img_size": True, "img_size": (48, 44)}, "pads images"),
        ({"name": "vit_tiny_r_s16_p8_224", "patch_size": 1, "img_size": 42}, "backbone"),
    ],
)
def test_a_grid_that_is_not_that_of_the_network_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        describe(small_vit(**options))


@pytest.mark.parametrize(("stride", "padding"), [(4, 0), (8, 2)])
def test_patches_that_overlap_or_are_padded_are_refused(stride: int, padding: int) -> None:
    model = small_vit()
    model.patch_embed.proj.stride, model.patch_embed.proj.padding = (stride, stride), (padding, padding)
    with pytest.raises(UnsupportedModel, match="overlap, or are padded"):
        describe(model)


@pytest.mark.parametrize(
    "options",
    [
        {"dynamic_img_pad": True, "dynamic_img_size": True},
        {"dynamic_img_size": True, "img_size": (48, 32)},
        {"img_size": 44},
        {"img_size": (32, 48), "patch_size": (16, 8)},
    ],
)
def test_the_grid_is_that_of_the_network(options: dict[str, Any]) -> None:
    model = small_vit(**options)
    rows, columns = describe(model).grid
    assert model.patch_embed(images_for(model)).reshape(3, -1, 32).shape[1] == rows * columns
