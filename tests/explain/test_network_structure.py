"""What `describe` remembers of a network, and that it does not outlive a change; what is taken for a classifier."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from some_networks import CLASSES, GapVGG, random_images, small_network
from torch import Tensor, nn

from pipeline.explain import UnsupportedMethod, UnsupportedModel, describe, explain, shape_run
from pipeline.explain.feature_readout import try_read_out
from pipeline.explain.model_state import preserve_model_state


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the runs that `describe` makes."""
    sizes: list[tuple[int, int]] = []
    run = shape_run._run

    def counted(model: nn.Module, size: tuple[int, int]) -> Any:
        sizes.append(size)
        return run(model, size)

    monkeypatch.setattr(shape_run, "_run", counted)
    return sizes


def test_a_network_is_run_once_for_its_description(runs: list[tuple[int, int]]) -> None:
    model = small_network("resnet18")
    first = describe(model, (64, 64))
    with torch.no_grad():
        model.fc.weight.mul_(2)
    assert describe(model.train(), (64, 64)) == first
    assert runs == [(64, 64)]
    assert describe(model, (96, 64)).grid == (3, 2)
    assert runs == [(64, 64), (96, 64)]


def test_a_change_of_the_structure_is_noticed(runs: list[tuple[int, int]]) -> None:
    model = small_network("VGG with a mean")
    assert (describe(model, (64, 64)).grid, describe(model, (64, 64)).classes) == ((4, 4), CLASSES)
    model.fc = nn.Linear(32, 7).double()
    assert describe(model, (64, 64)).classes == 7
    model.features[2].stride = 2
    assert describe(model, (64, 64)).grid == (7, 7)
    model.features.append(nn.MaxPool2d(2))
    assert describe(model, (64, 64)).grid == (3, 3)
    assert len(runs) == 4
    model.features[0].register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(UnsupportedModel, match="hook of other code"):
        describe(model, (64, 64))


def test_what_is_remembered_keeps_no_network_alive() -> None:
    model = small_network("VGG with a mean")
    describe(model, (64, 64))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_features_of_another_shape_are_refused() -> None:
    class Growing(GapVGG):
        def forward_features(self, images: Tensor) -> Tensor:
            features = super().forward_features(images)
            return features if len(images) == 1 else features.repeat(1, 1, 2, 2)

    model = Growing().double().eval()
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    with pytest.raises(UnsupportedModel, match=r"shape \[2, 32, 8, 8\]; one image alone had \[1, 32, 4, 4\]"):
        explain(model, random_images(2), 1, "gradcam")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "swin_t"])
def test_a_network_whose_classifier_was_taken_away_is_refused(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    last = next(name for name in ("fc", "classifier", "head") if hasattr(model, name))
    assert describe(model, (224, 224)).classes == 1000
    setattr(model, last, nn.Identity())
    with pytest.raises(UnsupportedModel, match=r"Norm(2d)? follows its last linear layer"):
        describe(model, (224, 224))


def test_a_network_that_was_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = small_network("resnet18")
    with pytest.raises(UnsupportedModel, match=r"conv1.weight was made under torch.inference_mode"):
        explain(model, random_images(), 1, "gradcam")


class Readout(GapVGG):
    """A network with another read-out."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.readout = nn.Sequential(*layers)

    def forward_head(self, features: Tensor) -> Tensor:
        """Compute logits."""
        return self.readout(features)


def pooled(*layers: nn.Module) -> tuple[nn.Module, ...]:
    """A mean, and layers behind it."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers


READOUTS: dict[str, tuple[tuple[nn.Module, ...], bool, bool]] = {
    "linear": (pooled(nn.Linear(32, 5)), True, True),
    "dropout": (pooled(nn.Dropout(0.9), nn.Linear(32, 5)), True, True),
    "two linear layers": (pooled(nn.Linear(32, 16), nn.Dropout(0.9), nn.Linear(16, 5)), True, True),
    "convolution": ((nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 5, 1), nn.Flatten()), True, True),
    "convolution before the mean": ((nn.Conv2d(32, 5, 1), *pooled()), True, True),
    "hidden layer": (pooled(nn.Linear(32, 16), nn.Hardswish(), nn.Linear(16, 5)), True, False),
    "norm": (pooled(nn.LayerNorm(32), nn.Linear(32, 5)), True, False),
    "maximum": ((nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 5)), False, False),
    "overwriting": ((nn.ReLU(inplace=True), *pooled(nn.Linear(32, 5))), False, False),
    "activation before the mean": ((nn.Conv2d(32, 5, 1), nn.ReLU(inplace=True), *pooled()), False, False),
}


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float64, 1e-4),
        (torch.float64, 1e3),
        (torch.float32, 1e-4),
        (torch.float32, 1e3),
        (torch.bfloat16, 1),
        (torch.float16, 1),
    ],
)
@pytest.mark.parametrize("name", READOUTS)
def test_a_read_out_is_recognized_by_trying_whatever_its_weights_and_precision(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    torch.manual_seed(0)
    layers, mean, linear = READOUTS[name]
    model = Readout(*copy.deepcopy(layers)).eval()
    with torch.no_grad():
        for parameter in model.readout.parameters():
            parameter.mul_(scale)
    model.to(dtype)
    network = describe(model, (64, 64))
    assert (network.readout == "mean", network.has_linear_readout) == (mean, linear)


def test_a_read_out_that_is_not_finite_is_not_taken_for_linear() -> None:
    model = Readout(*pooled(nn.Linear(32, 5))).eval()
    with torch.no_grad():
        model.readout[2].weight.fill_(torch.inf)
    (layer,) = describe(model, (64, 64)).features
    with preserve_model_state(model), torch.no_grad():
        assert try_read_out(model, layer) == (False, False)


def test_a_read_out_that_overwrites_its_input_leaves_the_features_to_other_methods() -> None:
    class ByRows(GapVGG):
        def forward_features(self, images: Tensor) -> Tensor:
            return super().forward_features(images).permute(0, 2, 3, 1).contiguous()

        def forward_head(self, features: Tensor) -> Tensor:
            return self.fc(features.mul_(2).mean((1, 2)))

    torch.manual_seed(0)
    model = ByRows().double().eval()
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    images = random_images(2)
    assert describe(model).features[0].layout == "NHWC"
    together = explain(model, images, 1, ["cam", "reciprocam", "gradcam", "layercam", "pm_zs"])
    for method, maps in together.items():
        assert torch.equal(maps, explain(model, images, 1, method)[method]), method


def test_cam_of_a_hidden_layer_is_refused_where_its_weights_are_small() -> None:
    model = Readout(*copy.deepcopy(READOUTS["hidden layer"][0])).double().eval()
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    with torch.no_grad():
        model.readout[2].weight.mul_(1e-6)
    with pytest.raises(UnsupportedMethod, match="more than a linear layer"):
        explain(model, random_images(1), 1, "cam")
