"""Methods of other projects on features of Swin-T and ResNet-50, beside the methods here that compute the same maps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bench.peer_maps import Case, Comparison, Maps, Suite, hilrp, input_x_gradient, like_grad_cam
from torch import Tensor, nn


def _channels_first(features: Tensor) -> Tensor:
    """[B, h, w, D] → [B, D, h, w]."""
    return features.movedim(-1, 1)


def _last_layer(network: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    """Return the module whose output the read-out sees, and what brings it into the layout of the peers."""
    return (network.norm, _channels_first) if hasattr(network, "norm") else (network.layer4[-1], None)


def _large_logits(case: Case) -> Any:
    """Make the network with logits that are 10⁶ times as large: grad-cam adds 10⁻⁶ to a denominator of gradients."""
    network = case.timm()
    classifier = network.get_classifier()
    with torch.no_grad():
        classifier.weight.mul_(1e6)
        classifier.bias.mul_(1e6)
    return network


def _grad_cam(name: str, case: Case, make: Callable[[Case], Any] = Case.timm) -> Maps:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = make(case)
    layer, transform = _last_layer(network)
    cam = getattr(pytorch_grad_cam, name)(network, [layer], reshape_transform=transform)
    targets = [ClassifierOutputTarget(int(target)) for target in case.classes]
    return lambda: torch.from_numpy(cam(input_tensor=case.images, targets=targets))


def _torchcam(name: str, case: Case) -> Maps:
    import torchcam.methods

    network = case.timm()
    layer, transform = _last_layer(network)
    cam = getattr(torchcam.methods, name)(network, layer, reshape_transform=transform)
    return lambda: cam(case.classes.tolist(), network(case.images), normalized=False)[0]


def _torchcam_cam(case: Case) -> Maps:
    from torchcam.methods import CAM

    network = case.timm()
    layer, transform = _last_layer(network)
    cam = CAM(network, layer, network.get_classifier(), reshape_transform=transform)

    @torch.no_grad()
    def maps() -> Tensor:
        network(case.images)
        found: Tensor = cam(case.classes.tolist(), normalized=False)[0]
        return found

    return maps


def _layer_grad_cam(case: Case) -> Maps:
    from captum.attr import LayerGradCam

    network = case.timm()
    method = LayerGradCam(network, network.layer4)
    return lambda: method.attribute(case.images, case.classes, relu_attributions=True)[:, 0].detach()


def _reciprocam(case: Case) -> Maps:
    from openvino_xai.methods.white_box.torch import SALIENCY_MAP_OUTPUT_NAME, TorchReciproCAM

    inserted = TorchReciproCAM(case.timm(), target_layer="layer4", embed_scaling=False).prepare_model()

    @torch.no_grad()
    def maps() -> Tensor:
        every: Tensor = inserted(case.images)[SALIENCY_MAP_OUTPUT_NAME]
        return every[torch.arange(case.batch), case.classes]

    return maps


_CNN, _SWIN = ("ResNet-50",), ("Swin-T",)

FEATURE_NETWORKS = Suite(
    ("Swin-T", "ResNet-50"),
    (
        Comparison(
            "grad-cam", "`GradCAM`", "gradcam", partial(_grad_cam, "GradCAM"), alike=like_grad_cam, tolerance=1e-6
        ),
        Comparison(
            "grad-cam",
            "`GradCAMPlusPlus`, logits × 10⁶",
            "gradcam_pp",
            partial(_grad_cam, "GradCAMPlusPlus", make=_large_logits),
            _large_logits,
            like_grad_cam,
            tolerance=1e-6,
        ),
        Comparison(
            "grad-cam", "`LayerCAM`", "layercam", partial(_grad_cam, "LayerCAM"), alike=like_grad_cam, tolerance=1e-6
        ),
        Comparison("torchcam", "`GradCAM`", "gradcam", partial(_torchcam, "GradCAM")),
        Comparison("torchcam", "`LayerCAM`", "layercam", partial(_torchcam, "LayerCAM")),
        Comparison("torchcam", "`CAM`", "cam", _torchcam_cam),
        Comparison("captum", "`LayerGradCam`", "gradcam", _layer_grad_cam, sizes=_CNN),
        Comparison("captum", "`InputXGradient`", "grad_input", partial(input_x_gradient, side=32)),
        Comparison(
            "openvino_xai",
            "`TorchReciproCAM`, logits, one position",
            "reciprocam:kernel=single:score=logit",
            _reciprocam,
            sizes=_CNN,
        ),
        *(
            Comparison(
                "hilrp",
                f"`attribute_swin`, `{theirs}`, γ = 0.25",
                f"{ours}:read=pixels:gamma=0.25",
                hilrp(theirs, "swin", 32),
                tolerance=1e-6,
                sizes=_SWIN,
            )
            for theirs, ours in (("attnlrp", "attn_lrp"), ("cp", "cp_lrp"))
        ),
    ),
    ("gradcam", "gradcam_pp", "layercam", "grad_input", "reciprocam"),
)
