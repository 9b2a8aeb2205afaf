"""Controls: maps that any method should beat. Every table shows them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.network import Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods
from pipeline.utils.random import rng_for


@dataclass(frozen=True)
class Control(Method):
    """Base class of the controls."""

    kind = "control"
    class_specific = False
    paper = "–"
    cost = "0"
    requirement = Requirement.IMAGES


@methods.register
@dataclass(frozen=True)
class Center(Control):
    """A Gaussian in the middle of the image, where photographers put things.

    E = exp(−(x² + y²) / 2σ²) at the patch centers, with x and y from −1 to 1 across the grid and σ = ½.
    """

    base_name = "center"
    paper = "Choe et al., Evaluating WSOL Methods Right, CVPR 2020"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        rows, columns = trace.anatomy.grid
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows * 2 - 1
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns * 2 - 1
        gaussian = torch.exp(-2 * (y[:, None] ** 2 + x[None, :] ** 2))
        return gaussian.to(trace.images).expand(len(trace.images), 1, -1, -1)


@methods.register
@dataclass(frozen=True)
class Uniform(Control):
    """The same value everywhere: the score that a metric gives without any information. The map is 1."""

    base_name = "uniform"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        return trace.images.new_ones(len(trace.images), 1, *trace.anatomy.grid)


@methods.register
@dataclass(frozen=True)
class Random(Control):
    """Noise, uniform in [0, 1), from only the key of the image and the seed of the run."""

    base_name = "random"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        maps = [rng_for(self.name, key, trace.seed).random(trace.anatomy.grid) for key in trace.keys]
        return torch.from_numpy(np.stack(maps)).to(trace.images)[:, None]


@methods.register
@dataclass(frozen=True)
class Edges(Control):
    """Edge strength of the image, which needs no network.

    E = mean over the pixels of a patch of the Sobel gradient magnitude of the mean of the channels.
    """

    base_name = "edges"
    paper = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        gray = F.pad(trace.images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        horizontal = gray.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        kernels = torch.stack([horizontal, horizontal.T])[:, None]
        strength = F.conv2d(gray, kernels).square().sum(1, keepdim=True).sqrt()
        return trace.patch_means(strength)
