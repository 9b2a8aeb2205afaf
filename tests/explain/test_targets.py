"""What a map explains in place of the logit: by closed forms, by sums over classes, and by ordinary autograd."""

import math
from typing import get_args

import pytest
import torch
from explicit import TARGET, compute_map
from support import FAMILIES, SHORT, images_for, random_head, small_vit
from torch import Tensor, nn

from pipeline.explain import UnsupportedMethod, explain, methods
from pipeline.explain.target_score import Target, target_values
from schemas.errors import UsageError

TARGETS = get_args(Target)
LINEAR = ("grad_input", "cp_lrp", "attn_lrp:read=pixels:gamma=0.25", "integrated_gradients:nodes=2")
"""Methods that are linear in the gradient."""
LOGITS = (2.0, 1.0, -1.0, 0.5, 3.0)


def explained(target: Target, class_id: int) -> float:
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    return target_values(small_vit(), logits, torch.tensor([class_id]), target).item()


def test_values_by_hand() -> None:
    whole = sum(math.exp(value) for value in LOGITS)
    assert explained("logit", 0) == 2
    assert explained("contrast_mean", 0) == pytest.approx(2 - (1 - 1 + 0.5 + 3) / 4, abs=1e-15)
    assert explained("contrast_max", 0) == -1
    assert explained("contrast_max", 4) == 1
    assert explained("softmax", 0) == pytest.approx(math.exp(2) / whole, abs=1e-15)
    assert explained("logsoftmax", 0) == pytest.approx(2 - math.log(whole), abs=1e-15)
    weights = {1: math.exp(1), 4: math.exp(3), 3: math.exp(0.5)}  # the nearest of 2: 1 and 3, then 0.5
    expected = sum(weight * (2 - LOGITS[k]) for k, weight in weights.items()) / sum(weights.values())
    assert explained("finer", 0) == pytest.approx(expected, abs=1e-15)


def test_a_class_is_not_compared_with_itself_where_others_are_equal_and_few_classes_are_few_to_compare_with() -> None:
    equal = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64).requires_grad_()
    for target in ("contrast_max", "finer"):
        (gradient,) = torch.autograd.grad(target_values(small_vit(), equal, torch.tensor([2]), target).sum(), equal)
        assert gradient[2] == 1
        assert gradient.sum().abs() < 1e-15
    two = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert target_values(small_vit(), two, torch.tensor([0]), "finer").item() == -1.5


def test_underflow_of_every_weight_leaves_finer_finite() -> None:
    logits = torch.tensor([0.0, -900.0, -901.0, -902.0, 900.0])
    assert target_values(small_vit(), logits, torch.tensor([1]), "finer").isfinite().all()


def maps_by_class(model: nn.Module, images: Tensor, name: str, target: str) -> Tensor:
    """Maps of one image of every class: [C, h, w]."""
    classes = torch.arange(10)[None]
    ((_, maps),) = explain(model, images, classes, f"{name}:target={target}").items()
    return maps[0]


@pytest.mark.parametrize("name", LINEAR)
def test_maps_of_linear_methods_are_combined_as_the_gradient_is(name: str) -> None:
    model = small_vit(depth=2)
    images = images_for(model, 1)
    with torch.no_grad():
        logits = model(images)[0]
    plain = maps_by_class(model, images, name, "logit")
    scale = plain.abs().max()
    contrast = maps_by_class(model, images, name, "contrast_mean")
    expected = plain - (plain.sum(0) - plain) / 9
    assert (contrast - expected).abs().max() <= 1e-12 * scale
    assert contrast.sum(0).abs().max() <= 1e-12 * scale
    best, second = logits.topk(2).indices.tolist()
    others = [best if c != best else second for c in range(10)]
    assert (maps_by_class(model, images, name, "contrast_max") - plain + plain[others]).abs().max() <= 1e-12 * scale
    if "integrated" in name:  # probabilities change along the path
        return
    p = logits.softmax(0)
    logarithm = maps_by_class(model, images, name, "logsoftmax")
    assert (logarithm - plain + torch.einsum("c,chw->hw", p, plain)).abs().max() <= 1e-12 * scale
    assert torch.einsum("c,chw->hw", p, logarithm).abs().max() <= 1e-12 * scale
    probability = maps_by_class(model, images, name, "softmax")
    assert (probability - p[:, None, None] * logarithm).abs().max() <= 1e-12 * scale


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize(
    "name",
    [
        "gradcam",
        "attn_gradcam",
        "agcam",
        "agcam:full_gradient=true",
        "smoothgrad:samples=2:noise=0.0",
    ],
)
def test_methods_with_a_positive_part_take_it_of_the_gradient_of_the_target(name: str, target: str) -> None:
    """Where all other logits are constant, every target is a function of the one that is not: a factor of its map."""
    model = small_vit(depth=2)
    model.head.weight.data[torch.arange(10) != TARGET] = 0
    images = images_for(model, 1)
    leaf = model(images).detach().requires_grad_()
    value = target_values(model, leaf, torch.tensor([[TARGET]]), target).sum()  # type: ignore[arg-type]
    factor = torch.autograd.grad(value, leaf)[0][0, TARGET]
    assert factor > 0
    expected = factor * compute_map(model, images, name)
    found = compute_map(model, images, f"{name}:target={target}")
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_transformer_attribution_takes_the_gradient_of_the_target_and_the_relevance_of_the_class() -> None:
    """Weights of one block: the map is that of the logit, with the gradient of the margin."""
    model = small_vit(depth=1)
    model.head.weight.data[torch.arange(10) != TARGET] = 0
    images = images_for(model, 1)
    name = "transformer_attribution"
    expected = compute_map(model, images, name)
    assert torch.allclose(compute_map(model, images, f"{name}:target=contrast_max"), expected, rtol=1e-9, atol=1e-15)
    with torch.no_grad():
        p = model(images)[0].softmax(0)[TARGET]
    found = compute_map(model, images, f"{name}:target=logsoftmax")
    assert torch.allclose(found, (1 - p) * expected, rtol=1e-9, atol=1e-15)


def test_legrad_compares_every_layer_with_the_classes_of_the_image() -> None:
    model = small_vit()
    images = images_for(model, 1)
    with torch.no_grad():
        rest = [c for c in model(images)[0].argsort(descending=True).tolist() if c != TARGET]
    margin = small_vit()
    margin.head.weight.data[TARGET] -= margin.head.weight.data[rest[0]]
    margin.head.bias.data[TARGET] -= margin.head.bias.data[rest[0]]
    expected = compute_map(margin, images, "legrad")
    assert torch.allclose(compute_map(model, images, "legrad:target=contrast_max"), expected, rtol=0, atol=1e-14)


MEASURED = (
    "reciprocam",
    "reciprocam:kernel=box:block=-2",
    "rise:masks=6",
    "vit_cx:distance=0.2",
    "tis:masks=6",
    "pm_zs",
    "pm_value",
)
"""Methods that read a number of other images or of patches, in which their maps are linear."""


@pytest.mark.parametrize("kind", ["class token", "mean, fc_norm"])
@pytest.mark.parametrize("name", MEASURED)
def test_methods_that_measure_read_the_target_with_the_classes_of_the_image(name: str, kind: str) -> None:
    model = small_vit(**FAMILIES[kind], depth=2)
    images = images_for(model, 1)
    with torch.no_grad():
        order = model(images)[0].argsort(descending=True).tolist()
    plain = maps_by_class(model, images, name, "logit")
    scale = plain.abs().max()
    contrast = maps_by_class(model, images, name, "contrast_mean")
    assert (contrast - plain + (plain.sum(0) - plain) / 9).abs().max() <= 1e-12 * scale
    others = [order[0] if c != order[0] else order[1] for c in range(10)]
    assert (maps_by_class(model, images, name, "contrast_max") - plain + plain[others]).abs().max() <= 1e-12 * scale
    assert not torch.allclose(maps_by_class(model, images, name, "finer"), plain, rtol=1e-2)
    ((default, maps),) = explain(model, images, torch.arange(10)[None], name).items()
    if not name.startswith("pm"):  # these read a probability of every class by itself
        assert torch.equal(maps_by_class(model, images, name, "softmax"), maps[0])
        assert methods.parse(f"{name}:target=softmax").name == default


def test_patches_are_compared_by_their_softmax() -> None:
    model = small_vit(depth=2)
    images = images_for(model, 1)
    logits = maps_by_class(model, images, "pm_zs", "logit")
    assert torch.allclose(maps_by_class(model, images, "pm_zs", "softmax"), logits.softmax(0), rtol=1e-12)
    assert torch.allclose(maps_by_class(model, images, "pm_zs", "logsoftmax"), logits.log_softmax(0), rtol=1e-12)
    probability = explain(model, images, torch.arange(10)[None], "pm_zs")["pm_zs"][0]
    assert torch.allclose(probability, logits.sigmoid(), rtol=1e-12)


def test_a_target_of_an_image_does_not_depend_on_its_batch_nor_on_other_targets() -> None:
    model = small_vit(depth=2)
    images = images_for(model)
    classes = torch.tensor([[1, 4], [2, 2], [0, 9]])
    names = [f"{name}:target={target}" for name in ("gradcam", "legrad", "cp_lrp") for target in TARGETS[1:]]
    together = explain(model, images, classes, names)
    for row in range(3):
        for column in range(2):
            alone = explain(model, images[row : row + 1], classes[row : row + 1, column : column + 1], names)
            for name, maps in alone.items():
                assert torch.allclose(together[name][row, column], maps[0, 0], rtol=0, atol=1e-12), name


def test_what_a_target_is_not_defined_for_is_refused() -> None:
    with pytest.raises(UsageError, match="no option 'target'; its map is of the image, not of a class"):
        methods.parse("attention:target=finer")
    with pytest.raises(UsageError, match="target is 'margin'; it can be logit, contrast_mean"):
        methods.parse("gradcam:target=margin")
    sigmoid = small_vit(**FAMILIES["mean, sigmoid"])
    single = random_head("class token and mean", classes=("a",))
    for name in ("weight", "bias"):
        single.tensors[name] = single.tensors[name][:1]
    one = single.attach(small_vit(reg_tokens=3, num_classes=0))
    for model, target, message in (
        (sigmoid, "finer", "the head states probabilities by a sigmoid"),
        (one, "contrast_mean", "the model has no other"),
        (one, "finer", "the model has no other"),
        (one, "softmax", "is always 1; take target=logit"),
    ):
        with pytest.raises(UnsupportedMethod, match=message):
            explain(model, images_for(model, 1), 0, f"gradcam:target={target}")
    with pytest.raises(UnsupportedMethod, match="explains the cosine itself"):
        explain(small_vit(), images_for(small_vit(), 1), 0, "legrad:score=cosine:target=finer")


def test_a_sigmoid_is_explained_by_its_own_probability() -> None:
    model = small_vit(**FAMILIES["mean, sigmoid"])
    images = images_for(model, 1)
    with torch.no_grad():
        p = model(images)[0, TARGET].sigmoid()
    plain = compute_map(model, images, "cp_lrp")
    assert torch.allclose(compute_map(model, images, "cp_lrp:target=softmax"), p * (1 - p) * plain, rtol=1e-10)
    assert torch.allclose(compute_map(model, images, "cp_lrp:target=logsoftmax"), (1 - p) * plain, rtol=1e-10)


def test_names_and_records_without_a_target_are_what_they_were() -> None:
    for name, method in methods.items():
        made = methods.parse(SHORT.get(name, name))
        assert "target" not in made.name
        assert not {"target", "backward"} & made.recorded_options.keys()
        if method.class_specific and name not in ("cam", "tscam"):  # their weights are those of the logit
            option = method.option_aliases.get("target", "target")
            assert methods.parse(f"{name}:target=finer").recorded_options[option] == "finer"
