"""What the tests of methods that show samples of an image share."""

import torch
from explicit import class_probabilities
from torch import Tensor, nn

from pipeline.explain import Method, explain

TARGETS = torch.tensor([[1, 4], [2, 2], [0, 9]])
KEYS = ["a", "b", "c"]


def compute_maps(model: nn.Module, images: Tensor, targets: Tensor, method: Method, **options: object) -> Tensor:
    """Maps [B, K, h, w] of one method."""
    return explain(model, images, targets, method, **options)[method.name]  # type: ignore[arg-type]


def probabilities(model: nn.Module, image: Tensor) -> Tensor:
    """[C] of one image."""
    with torch.no_grad():
        return class_probabilities(model, model(image[None]))[0]
