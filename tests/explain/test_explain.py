"""What ``explain`` accepts, refuses and says; the registry; loading networks."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from support import FAMILIES, SHORT, images_for, small_vit
from timm.models.vision_transformer import ParallelScalingBlock

from pipeline.explain import LeGrad, ReciproCAM, UnsupportedModel, describe, explain, methods
from pipeline.explain.catalogue import catalogue
from pipeline.explain.load import load, weights_hash
from schemas.errors import UsageError
from schemas.run import ModelSpec

ONE = torch.zeros(1, 1, dtype=torch.int64)


def test_names_and_instances_are_alike() -> None:
    model = small_vit()
    maps = explain(model, images_for(model, 1), ONE, ["legrad:layers=last2", LeGrad(), ReciproCAM(score="logit")])
    assert list(maps) == ["legrad_last2", "legrad", "reciprocam_logit"]
    for one in ("legrad", LeGrad()):
        assert list(explain(model, images_for(model, 1), ONE, one)) == ["legrad"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("lograd", "no method 'lograd'; there are attention, rollout, generic_attention"),
        ("legrad:layer=all", "legrad has no option 'layer'; it has layers"),
        ("attention:heads=3", "attention has no option 'heads'; it has none"),
        ("legrad:layers=7", "layers is '7'; it can be all, last1, last2, last4"),
        ("reciprocam:kernel", "kernel is ''; it can be gaussian, peak, box, single"),
    ],
)
def test_a_wrong_method_is_named_with_what_there_is(entry: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        explain(small_vit(), images_for(small_vit(), 1), ONE, [entry])


def test_the_same_method_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="legrad_last2 is named twice"):
        methods.resolve(["legrad:layers=last2", LeGrad(layers="last2")])


@pytest.mark.parametrize(
    ("images", "targets", "says"),
    [
        (torch.zeros(1, 3, 32, 32), ONE, r"take.* \[B, 3, 48, 48\]"),
        (torch.zeros(1, 1, 48, 48), ONE, r"take.* \[B, 3, 48, 48\]"),
        (torch.zeros(0, 3, 48, 48), ONE[:0], "no images"),
        (torch.zeros(2, 3, 48, 48), ONE, r"must be int64 \[2, K\]"),
        (torch.zeros(1, 3, 48, 48), torch.zeros(1, 1), "must be int64"),
        (torch.zeros(1, 3, 48, 48), ONE + 10, "outside of 0 … 9"),
        (torch.zeros(1, 3, 48, 48), ONE - 1, "outside of 0 … 9"),
    ],
)
def test_input_that_does_not_fit_is_refused(images: torch.Tensor, targets: torch.Tensor, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        explain(small_vit().float(), images, targets, ["attention"])


def test_keys_must_be_one_for_each_image() -> None:
    with pytest.raises(UsageError, match="1 keys for 2 images"):
        explain(small_vit(), images_for(small_vit(), 2), ONE.expand(2, 1), ["random"], keys=["a"])


def test_no_targets_give_no_maps() -> None:
    model = small_vit()
    empty = torch.zeros(2, 0, dtype=torch.int64)
    maps = explain(model, images_for(model, 2), empty, ["legrad", "attention"])
    assert [tuple(maps[name].shape) for name in ("legrad", "attention")] == [(2, 0, 6, 6)] * 2


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {}, "it has no blocks"),
        ("resnet18", {}, "it has no patch_embed"),
        ("vit_tiny_patch16_224", {"num_classes": 0}, "it has no classifier"),
        ("vit_tiny_patch16_224", {"global_pool": "max"}, "none of token, avg and map"),
        ("mixer_s32_224", {}, "it has no patch_embed"),
        (
            "vit_tiny_patch16_224",
            {"block_fn": ParallelScalingBlock},
            "no attention that",
        ),
    ],
)
def test_a_network_that_cannot_be_explained_is_refused_with_the_reason(name: str, options: dict, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        describe(timm.create_model(name, **options))


def test_float32_stays_close_to_float64() -> None:
    model = small_vit()
    images, targets = images_for(model), torch.tensor([[1], [2], [3]])
    names = [SHORT.get(name, name) for name in methods if name not in ROUGH | LEARNED]
    double = explain(model, images, targets, names, keys=["a", "b", "c"])
    single = explain(model.float(), images.float(), targets, names, keys=["a", "b", "c"])
    for name, maps in double.items():
        assert single[name].dtype == torch.float32
        assert (single[name].double() - maps).abs().max() <= 1e-4 * maps.abs().max(), name


LEARNED = {"diffmask", "pm"}
"""Need a file of their own; see their tests."""

ROUGH = {"transformer_attribution"}
"""Divides by sums near zero."""


@pytest.mark.parametrize("model", [None, "test_vit", "vit_tiny_patch16_224"])
def test_the_catalogue_has_a_full_row_for_every_method(model: str | None) -> None:
    rows = catalogue(model)
    assert [row["method"] for row in rows] == list(methods)
    assert all(all(row.values()) for row in rows)
    assert all(row.get("applies", "yes") == "yes" for row in rows if row["method"] not in LEARNED)


def save(tmp_path: Path, model: torch.nn.Module, **change: torch.Tensor) -> str:
    path = tmp_path / "weights.safetensors"
    save_file({**model.state_dict(), **change}, path)
    return str(path)


def test_a_checkpoint_brings_its_weights_and_its_number_of_classes(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=7)
    loaded = load(ModelSpec(name="test_vit", checkpoint=save(tmp_path, model)))
    assert loaded.record.classes == 7
    assert loaded.record.weights == weights_hash(model)
    assert not loaded.model.training


def test_the_hash_is_of_the_tensors_not_of_the_file(tmp_path: Path) -> None:
    model = timm.create_model("test_vit").half().float()
    full = load(ModelSpec(name="test_vit", checkpoint=save(tmp_path, model)))
    half = load(ModelSpec(name="test_vit", checkpoint=save(tmp_path, model.half())))
    assert full.record.weights == half.record.weights
    model.float().head.bias.data[0] += 1
    assert weights_hash(model) != full.record.weights


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"name": "vit_tinny_patch16_224", "pretrained": True}, "did you mean vit_tiny_patch16_224"),
        ({"name": "test_vit", "checkpoint": "weights.pth"}, "is not a .safetensors file"),
        ({"name": "test_vit", "checkpoint": "nowhere.safetensors"}, "no such file"),
        ({"name": "local-dir:/nowhere", "pretrained": True}, "no config.json"),
    ],
)
def test_a_network_that_cannot_be_had_is_refused(spec: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(ModelSpec(**spec))


def test_a_checkpoint_of_another_architecture_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = save(tmp_path, timm.create_model("test_vit", embed_dim=32), stray=torch.zeros(1))
    with pytest.raises(UsageError, match=r"is not a checkpoint of test_vit: .*stray.*of another shape"):
        load(ModelSpec(name="test_vit", checkpoint=path))


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not this")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        load(ModelSpec(name="test_vit", checkpoint=str(tmp_path / "weights.safetensors")))


def test_a_folder_that_timm_cannot_read_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(name=f"local-dir:{tmp_path}", pretrained=True)
    for content, says in (
        ("{}", "KeyError"),
        ("{", "JSONDecodeError"),
        ('{"architecture": "test_vit"}', "cannot be had"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UsageError, match=says):
            load(spec)


def test_describe_changes_nothing() -> None:
    for options in FAMILIES.values():
        model = small_vit(**options)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        describe(model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
