"""Small random networks of many structures, in float64."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.densenet import DenseNet
from timm.models.mlp_mixer import MlpMixer
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.vgg import VGG
from torch import Tensor, nn

CLASSES = 5

_STAGES: dict[str, Any] = {"depths": (1, 1, 1, 1)}

TIMM: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)},
    "resnetv2_50": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "stem_chs": 8},
    "convnext_atto": {**_STAGES, "dims": (8, 16, 24, 32)},
    "mobilenetv3_small_050": {},
    "swin_tiny_patch4_window7_224": {
        **_STAGES,
        "embed_dim": 8,
        "num_heads": (1, 2, 2, 4),
        "window_size": 4,
        "img_size": 64,
    },
    "swinv2_tiny_window8_256": {**_STAGES, "embed_dim": 8, "num_heads": (1, 2, 2, 4), "window_size": 4, "img_size": 64},
    "pvt_v2_b0": {**_STAGES, "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 4)},
    "maxvit_nano_rw_256": {**_STAGES, "embed_dim": (32, 32, 32, 32), "stem_width": 8, "img_size": 64},
    "coatnet_nano_rw_224": {**_STAGES, "embed_dim": (32, 32, 32, 32), "stem_width": 8, "img_size": 64},
    "hiera_tiny_224": {"stages": (1, 1, 1, 1), "embed_dim": 8, "num_heads": 1, "img_size": 64},
    "cait_xxs24_224": {"depth": 2, "embed_dim": 32, "num_heads": 4, "img_size": 64},
    "xcit_nano_12_p16_224": {"depth": 2, "embed_dim": 32, "num_heads": 4, "img_size": 64},
}
"""Networks of timm, with what makes them small."""


def small_stem() -> nn.Sequential:
    """Convolutions that give [B, 32, H / 16, W / 16], before the last activation function."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(4),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(4),
        nn.Conv2d(16, 32, 3, padding=1),
    )


class GapVGG(nn.Module):
    """VGG with a mean over the last features, as weakly supervised localization uses it; not of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*small_stem(), nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, CLASSES)

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute [B, 32, H / 16, W / 16]."""
        return self.features(images)

    def forward_head(self, features: Tensor) -> Tensor:
        """Compute logits."""
        return self.fc(self.avgpool(features).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        return self.forward_head(self.forward_features(images))


OWN: dict[str, Callable[[], nn.Module]] = {
    "VGG": lambda: VGG([8, "M", 16, "M", 24, "M", 32, "M", 32, "M"], num_classes=CLASSES, mlp_ratio=0.01),
    "DenseNet": lambda: DenseNet(8, (1, 1, 1, 1), num_classes=CLASSES, bn_size=2),
    "MViT": lambda: MultiScaleVit(
        MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=8, num_heads=1), (64, 64), num_classes=CLASSES
    ),
    "Mixer": lambda: MlpMixer(CLASSES, 64, patch_size=16, num_blocks=2, embed_dim=32),
    "VGG with a mean": GapVGG,
}
"""Networks by their classes."""

_FIRST = ("resnet18", "swin_tiny_patch4_window7_224", "cait_xxs24_224", "VGG")
NAMES = (*_FIRST, *sorted({*TIMM, *OWN} - {*_FIRST}))
"""One of each kind first: a mean of channels-first and of channels-last features, class attention, no mean."""


def small_network(name: str) -> nn.Module:
    """A random network of 64 × 64 pixels and 5 classes, in float64."""
    torch.manual_seed(0)
    model: Any = OWN[name]() if name in OWN else timm.create_model(name, num_classes=CLASSES, **TIMM[name])
    randomize(model)
    model.pretrained_cfg = (getattr(model, "pretrained_cfg", None) or {}) | {"input_size": (3, 64, 64)}
    return model.double().eval()


def randomize(model: nn.Module) -> None:
    """Give every parameter and statistic a random value of usual size."""
    for parameter_name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if not parameter.is_floating_point():
            continue
        if "running_var" in parameter_name or (parameter.ndim < 2 and parameter_name.endswith(("weight", "gamma"))):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim < 2:
            nn.init.normal_(parameter, std=0.2)
        elif isinstance(parameter, nn.Parameter):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def random_images(count: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    """Random images, float64."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def without_constants(model: nn.Module) -> nn.Module:
    """Set to 0 what is added to activations, and could take relevance away."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bias", "running_mean", "pos_embed", "cls_token", "beta")):
            tensor.data.zero_()
    return model
