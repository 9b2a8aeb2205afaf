"""Networks without ``forward_head``: their read-out is their own code behind the last grid."""

import copy
import pickle
import threading
import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from explain.feature_formulas import written_out
from some_networks import CLASSES, random_images, randomize, small_stem
from support import soak_after
from torch import Tensor, nn

from pipeline.explain import UnsupportedMethod, UnsupportedModel, describe, explain
from pipeline.explain.attribution.reciprocam import mask_weights
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.readout_code import trace_forward

TARGETS = torch.tensor([[1, 3], [2, 2]])


class Own(nn.Module):
    """A network of a user: the forward is all that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc, self.gate = small_stem(), nn.Linear(32, CLASSES), nn.Conv2d(32, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.features(images), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(features, 1).view(images.size(0), -1))


class ByView(Own):
    def forward(self, images: Tensor, labels: Tensor | None = None, return_cam: bool = False) -> Any:
        features = self.features(images).relu()
        if return_cam:
            return features
        pooled = F.avg_pool2d(features, 4)
        logits = self.fc(pooled.view(pooled.size(0), -1))
        return (logits, labels) if labels is not None else logits


class Gated(Own):
    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        self.kept = features * self.gate(features).sigmoid()
        return self.fc(self.kept.mean((2, 3)))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor([0.4, 0.5, 0.6])[:, None, None])
        self.model = ByView()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images - self.mean)


class Summed(Own):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).relu().sum((2, 3)) / 16)


def sequential() -> nn.Module:
    return nn.Sequential(small_stem(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def relu_of(path: str) -> Any:
    """Features by their definition: the activation of what a module returns."""
    return lambda model, images: model.get_submodule(path)(images).relu()


def gated(model: Any, images: Tensor) -> Tensor:
    features = model.features(images)
    return features * model.gate(features).sigmoid()


LINEAR: dict[str, tuple[Any, Any, str]] = {
    "Sequential": (sequential, relu_of("0"), "4"),
    "fixed pooling": (ByView, relu_of("features"), "fc"),
    "gate": (Gated, gated, "fc"),
    "sum": (Summed, relu_of("features"), "fc"),
    "wrapped": (Wrapped, lambda model, images: model.model.features(images - model.mean).relu(), "model.fc"),
}
"""Networks of a linear read-out of a mean: the class, the features in front of the mean, and the classifier."""


def own(make: Any) -> Any:
    torch.manual_seed(0)
    model = make()
    randomize(model)
    return model.double().eval()


@pytest.mark.parametrize("name", LINEAR)
def test_maps_of_own_networks_are_their_formulas(name: str) -> None:
    make, compute, classifier = LINEAR[name]
    model, images = own(make), random_images()
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    maps = explain(model, images, TARGETS, ["cam", "reciprocam", "gradcam", "pm_zs:target=logit", "grad_input"])
    assert set(vars(model)) - attributes <= {"kept"}
    assert not isinstance(getattr(model, "kept", None), torch.fx.Proxy)
    features, last = compute(model, images).detach(), model.get_submodule(classifier)
    weights, bias = last.weight.detach(), last.bias.detach()
    shares = torch.einsum("bchw,bkc->bkhw", features, weights[TARGETS])
    assert torch.allclose(maps["cam"], shares, rtol=1e-9, atol=1e-12)
    assert torch.allclose(maps["pm_zs_logit"], shares + bias[TARGETS][:, :, None, None], rtol=1e-9, atol=1e-12)
    for index, mask in enumerate(mask_weights("gaussian", (4, 4)).reshape(16, 4, 4)):
        expected = F.linear((features * mask).mean((2, 3)), weights, bias).softmax(1).gather(1, TARGETS)
        assert torch.allclose(maps["reciprocam"].flatten(2)[:, :, index], expected, rtol=1e-9, atol=1e-12)
    for row, k in ((0, 0), (0, 1), (1, 0)):
        gradient = (weights[TARGETS[row, k]] / 16).expand(4, 4, -1)
        expected = written_out("gradcam", features[row].permute(1, 2, 0), gradient)
        assert torch.allclose(maps["gradcam"][row, k], expected, rtol=1e-9, atol=1e-12)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).gather(1, TARGETS[:, :1]).sum(), images)
    cells = (images * gradient).detach().sum(1).unflatten(2, (4, 16)).unflatten(1, (4, 16)).sum((2, 4))
    assert torch.allclose(maps["grad_input"][:, 0], cells, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


TORCHVISION: dict[str, tuple[str, str]] = {
    "resnet18": ("layer4", "fc"),
    "densenet121": ("features", "classifier"),
    "shufflenet_v2_x0_5": ("conv5", "fc"),
    "mnasnet0_5": ("layers", "classifier.1"),
    "efficientnet_b0": ("features", "classifier.1"),
    "swin_t": ("permute", "head"),
}
"""Networks of torchvision, where their last features are, and their classifier."""


@pytest.mark.parametrize("name", soak_after(2, TORCHVISION))
def test_cam_of_a_network_of_torchvision_is_its_closed_form(name: str) -> None:
    """Weights times features, as pytorch-grad-cam and torchcam have it before they clip and scale."""
    torch.manual_seed(0)
    model, images = getattr(torchvision.models, name)(num_classes=CLASSES).double().eval(), random_images()
    path, classifier = TORCHVISION[name]
    kept: list[Tensor] = []
    with model.get_submodule(path).register_forward_hook(lambda *args: kept.append(args[2].detach().clone())):
        logits = model(images)
    features = kept[0].relu() if name == "densenet121" else kept[0]
    maps = explain(model, images, TARGETS, "cam")
    last = model.get_submodule(classifier)
    assert torch.allclose(maps["cam"], torch.einsum("bchw,bkc->bkhw", features, last.weight[TARGETS]), rtol=1e-9)
    biased = maps["cam"].mean((2, 3)) + last.bias[TARGETS]
    assert torch.allclose(biased, logits.gather(1, TARGETS), rtol=1e-9, atol=1e-12)


class Branching(Own):
    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if features.mean() > 0:
            features = -features
        return self.fc(features.mean((2, 3)))


class OfImages(Own):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3))) * images.mean()


class TwoScales(Own):
    def forward(self, images: Tensor) -> Tensor:
        early = self.features[:2](images)
        return self.fc(self.features[2:](early).mean((2, 3))) + early.mean((1, 2, 3))[:, None]


class Hidden(Own):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)).relu())


class Flattened(Own):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32 * 16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).flatten(1))


@pytest.mark.parametrize(
    ("make", "method", "reason"),
    [
        (Branching, "cam", r"torch.fx cannot follow its forward \(symbolically traced variables"),
        (Branching, "reciprocam", "cannot be run apart from the network: torch.fx cannot follow"),
        (OfImages, "cam", "its logits depend on more than the output of features"),
        (TwoScales, "reciprocam", "its logits depend on grids of several sizes"),
        (Hidden, "cam", "more than a linear layer"),
        (Flattened, "cam", "its classifier does not read the mean of the features"),
    ],
)
def test_a_read_out_that_cannot_be_run_apart_is_refused_with_the_reason(make: Any, method: str, reason: str) -> None:
    model, images = own(make), random_images()
    with pytest.raises(UnsupportedMethod, match=reason):
        explain(model, images, TARGETS, method)
    assert explain(model, images, TARGETS, "gradcam")["gradcam"].abs().max() > 0


class Unstable(Own):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.dropout(self.features(images).mean((2, 3))))  # in evaluation too


class Overwritten(Own):
    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        features.relu_()  # torch.fx sees that nobody reads what it returns
        return self.fc(features.mean((2, 3)))


class AskingForTensors(Own):
    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return self.fc((features.relu() if isinstance(features, Tensor) else features).mean((2, 3)))


class Autocast(Own):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # torch.fx does not see it
            return self.fc(self.features(images).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Unstable, "does not give the logits of the forward"),
        (Overwritten, "does not give the logits of the forward"),
        (AskingForTensors, "does not give the logits of the forward"),
        (Autocast, "does not run apart from it"),
    ],
)
def test_code_that_is_read_wrong_is_noticed_and_gradients_remain(make: Any, reason: str) -> None:
    model, images = own(make).float(), random_images().float()  # autocast leaves float64 as it is
    with pytest.raises(UnsupportedMethod, match=f"cam is not defined .* does behind features.* {reason}"):
        explain(model, images, TARGETS, "cam")
    assert explain(model, images, TARGETS, "gradcam")["gradcam"].abs().max() > 0


class Pool(nn.Module):
    full = True

    def forward(self, features: Tensor) -> Tensor:
        if self.full and features.device.type != "meta":
            raise torch.OutOfMemoryError("no memory left")
        return features.mean((2, 3))


class WithPool(Own):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(images)))


def test_a_lack_of_memory_is_no_finding_about_the_code() -> None:
    model, images = own(WithPool), random_images()
    with pytest.raises(torch.OutOfMemoryError):
        explain(model, images, TARGETS, "cam")
    model.pool.full = False
    assert explain(model, images, TARGETS, "cam")["cam"].isfinite().all()


class OverwritingOthers(Own):
    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        features[1:].mul_(2)  # torch.fx sees that nobody reads what it returns
        return self.fc(features.mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_logits_of_each_image_of_a_batch_are_proved(dtype: torch.dtype) -> None:
    """Large logits of one image hide no error of another."""
    images = random_images()
    images[0] *= 1e9
    with pytest.raises(UnsupportedModel, match="not give the logits of the forward; write it as a method"):
        explain(own(OverwritingOthers).to(dtype), images.to(dtype), TARGETS, "gradcam")


def test_a_new_classifier_of_the_same_shape_is_read() -> None:
    model, images = own(ByView), random_images()
    first = explain(model, images, TARGETS, "cam")["cam"]
    model.fc = copy.deepcopy(model.fc)
    with torch.no_grad():
        model.fc.weight.mul_(2)
    assert torch.allclose(explain(model, images, TARGETS, "cam")["cam"], 2 * first, rtol=1e-9)


def test_gradients_at_an_earlier_layer_pass_the_code() -> None:
    model, images = own(ByView), random_images()
    model.feature_info = [{"module": "features", "reduction": 16}]  # a stage where the code begins
    layers = explain(model, images, TARGETS, ["layercam:layer=stage3", "layercam"])
    assert torch.allclose(layers["layercam_stage3"], layers["layercam"], rtol=1e-9, atol=1e-12)
    assert layers["layercam"].abs().max() > 0


def test_other_threads_run_their_networks_while_a_forward_is_followed() -> None:
    model, other, images = own(ByView), own(ByView), random_images()
    expected, errors, ended = other(images), list[Exception](), threading.Event()

    def run() -> None:
        try:
            while not ended.is_set():
                assert torch.equal(other(images), expected)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    with preserve_model_state(model):
        for _ in range(30):
            assert trace_forward(model, ["features"]).nodes
    ended.set()
    thread.join()
    assert not errors


def test_two_threads_follow_forwards_one_after_the_other() -> None:
    """torch.fx replaces the call of all modules; two at a time would not put it back."""
    both, call, found = threading.Barrier(2), nn.Module.__call__, list[Any]()

    class Slow(ByView):
        def forward(self, images: Tensor) -> Tensor:
            if isinstance(images, torch.fx.Proxy):
                time.sleep(0.1)  # the other one would begin
            return super().forward(images)

    def run() -> None:
        model = own(Slow)
        both.wait()
        found.append(describe(model, (64, 64)).readout)

    threads = [threading.Thread(target=run) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert nn.Module.__call__ is call
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]
    assert found == ["mean", "mean"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_leaves_the_others(value: float) -> None:
    model, images = own(ByView), random_images()
    whole = explain(model, images, TARGETS, ["cam", "gradcam"])
    images[1, 0, 0, 0] = value
    maps = explain(model, images, TARGETS, ["cam", "gradcam"])
    for name in whole:
        assert torch.allclose(maps[name][0], whole[name][0], rtol=1e-9), name
        assert not maps[name][1].isfinite().all(), name


def test_a_description_with_code_is_copied_and_pickled() -> None:
    network = describe(own(ByView), (64, 64))
    assert network.features[0].code is not None
    assert pickle.loads(pickle.dumps(network)) == network
    assert copy.deepcopy(network) == network
