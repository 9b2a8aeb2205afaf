"""``explain`` and the registry: accepted entries, refusals, messages."""

import pytest
import timm
import torch
from support import FAMILIES, SHORT, images_for, small_vit
from timm.models.vision_transformer import ParallelScalingBlock

from pipeline.explain import LeGrad, ReciproCAM, UnsupportedMethod, UnsupportedModel, describe, explain, methods
from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.method_table import method_rows
from schemas.errors import UsageError

ONE = torch.zeros(1, 1, dtype=torch.int64)


def test_names_and_instances_are_alike() -> None:
    model = small_vit()
    maps = explain(model, images_for(model, 1), ONE, ["legrad:layers=last2", LeGrad(), ReciproCAM(score="logit")])
    assert list(maps) == ["legrad_last2", "legrad", "reciprocam_logit"]
    for entry in ("legrad", LeGrad()):
        assert list(explain(model, images_for(model, 1), ONE, entry)) == ["legrad"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("lograd", "no method 'lograd'; there are attention, rollout, generic_attention"),
        ("legrad:layer=all", "legrad has no option 'layer'; it has layers, score, no_final_norm, empty_prompt"),
        ("attention:heads=3", "attention has no option 'heads'; it has none"),
        ("legrad:layers=7", "layers is '7'; it can be all, last1, last2, last4"),
        ("reciprocam:kernel", "kernel is ''; it can be gaussian, peak, box, single"),
    ],
)
def test_a_wrong_method_is_named_with_what_there_is(entry: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain(small_vit(), images_for(small_vit(), 1), ONE, [entry])


def test_the_same_method_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="legrad_last2 is named twice"):
        methods.resolve(["legrad:layers=last2", LeGrad(layers="last2")])


@pytest.mark.parametrize(
    ("images", "targets", "message"),
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
def test_input_that_does_not_fit_is_refused(images: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
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
        ("vit_tiny_patch16_224", {"num_classes": 0}, "it has no classifier"),
    ],
)
def test_a_network_that_cannot_be_explained_is_refused_with_the_reason(name: str, options: dict, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        describe(timm.create_model(name, **options))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "max"}, "not token, avg or map"),
        ("mixer_s32_224", {}, "it is a MlpMixer, and none of"),
        (
            "vit_tiny_patch16_224",
            {"block_fn": ParallelScalingBlock},
            "block 0 .* is not a pre-norm",
        ),
    ],
)
def test_methods_of_global_attention_are_refused_with_the_reason(name: str, options: dict, reason: str) -> None:
    model = timm.create_model(name, **options)
    with pytest.raises(UnsupportedMethod, match=reason):
        explain(model, torch.zeros(1, 3, 224, 224), ONE, "legrad")


def test_float32_stays_close_to_float64() -> None:
    model = small_vit()
    images, targets = images_for(model), torch.tensor([[1], [2], [3]])
    names = [SHORT.get(name, name) for name in methods if name not in ROUGH | LEARNED | OF_A_MEAN]
    double = explain(model, images, targets, names, keys=["a", "b", "c"])
    single = explain(model.float(), images.float(), targets, names, keys=["a", "b", "c"])
    for name, maps in double.items():
        assert single[name].dtype == torch.float32
        assert (single[name].double() - maps).abs().max() <= 1e-4 * maps.abs().max(), name


LEARNED = {name for name, method in methods.items() if issubclass(method, LearnedMethod)}
"""Need a file of their own; see their tests."""

OF_A_MEAN = {"cam"}
"""Need a classifier that reads the mean of the patches."""

ROUGH = {"transformer_attribution"}
"""Divides by sums near zero."""


@pytest.mark.parametrize("model", [None, "test_vit", "vit_tiny_patch16_224"])
def test_the_method_table_has_a_full_row_for_every_method(model: str | None) -> None:
    rows = method_rows(model)
    assert [row["method"] for row in rows] == list(methods)
    assert all(all(row.values()) for row in rows)
    assert all(row.get("applies", "yes") == "yes" for row in rows if row["method"] not in LEARNED | OF_A_MEAN)


def test_methods_are_offered_for_a_network_whose_classifier_timm_creates_as_zeros() -> None:
    assert not timm.create_model("mixer_s32_224").head.weight.any()
    applies = {row["method"]: row["applies"] for row in method_rows("mixer_s32_224")}
    assert applies["cam"] == applies["reciprocam"] == "yes"


def test_describe_changes_nothing() -> None:
    for options in FAMILIES.values():
        model = small_vit(**options)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        describe(model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
