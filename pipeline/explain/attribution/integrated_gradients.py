"""Integrated gradients."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.explain.attribution.gradient_method import GradientMethod
from pipeline.explain.network import Network, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods


@methods.register
@dataclass(frozen=True)
class IntegratedGradients(GradientMethod):
    """Image times the mean gradient of the class logit on the straight path from gray to the image.

    E = Σ over channels and pixels of a patch of x ⊙ ∫₀¹ ∂y_c/∂x(αx) dα; signed. The baseline is the zero of the
    normalized image, the mean color of the dataset. The integral is computed at Gauss–Legendre nodes, which need
    far fewer than the equal steps of most implementations (captum offers both).

    Cost: a forward and a backward for each node.

    Options:
        nodes: number of quadrature nodes.

    Extra outputs:
        completeness: |sum of the map − (y_c(x) − y_c(0))| / |y_c(x) − y_c(0)|, the relative completeness error, with
            the target for y_c.
    """

    base_name = "integrated_gradients"
    paper = "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017"
    cost = "≈2.2 · nodes"
    default = False
    requirement = Requirement.IMAGES
    extra_outputs = ("completeness",)

    nodes: int = 64

    def unsupported(self, anatomy: Network) -> str | None:
        return super().unsupported(anatomy) if self.nodes > 0 else "it needs at least one node"

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        nodes, weights = np.polynomial.legendre.leggauss(self.nodes)  # on [−1, 1]
        mean = torch.zeros_like(trace.images)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            mean += float(weight) * trace.image_gradient(float(node) * trace.images, targets, self.backward_pass)
        maps = trace.patch_sums(trace.images * mean)
        baseline = trace.predict(torch.zeros_like(trace.images[:1])).expand_as(trace.logits)
        whole, grey = (trace.target_values(logits, targets, self.target) for logits in (trace.logits, baseline))
        difference = whole - grey
        error = (maps.sum((2, 3)) - difference).abs()
        trace.extra_outputs["completeness"] = torch.where(error == 0, 0.0, error / difference.abs())
        return maps
