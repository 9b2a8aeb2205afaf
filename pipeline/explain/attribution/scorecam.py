"""Score-CAM."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.explain.attribution.perturbation import PerturbationMethod, interpolation_matrix
from pipeline.explain.network import LAST, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods
from pipeline.explain.target_score import Target

_CHUNK_SIZE = 32
"""Largest number of masked images in memory; changes nothing else."""


@methods.register
@dataclass(frozen=True)
class ScoreCAM(PerturbationMethod):
    """Features weighted per channel by the logit of the image that the channel masks, positive part.

    For channel k: M_k = its features resized bilinearly to the image and scaled to [0, 1]; w = softmax over the
    channels of y_c(x ⊙ M_k), from which the paper subtracts y_c of a baseline, which a softmax does not see;
    E = ReLU(Σ_k w_k F_k). A channel of one value masks nothing in or out and has the weight of the baseline x ⊙ 0.
    Cost: a forward for each channel, whatever the number of classes.

    Options:
        target: the number of each copy that weighs its channel, see [targets](#targets).
        layer: see ``gradcam``.
    """

    base_name = "scorecam"
    paper = "Wang et al., Score-CAM, CVPR workshops 2020"
    cost = "channels"
    requirement = Requirement.FEATURES
    later_options = ("target", "layer")

    target: Target = "logit"
    layer: str = LAST

    @property
    def layer_name(self) -> str:
        return self.layer

    def explain_image(self, trace: NetworkTrace, row: int, classes: Tensor) -> Tensor:
        image, grid = trace.images[row], trace.layer(self.layer).grid
        features = trace.features_at(self.layer)[row].T.unflatten(1, grid)
        down, across = (
            interpolation_matrix(cells, side).to(image) for cells, side in zip(grid, image.shape[1:], strict=True)
        )
        scores = []
        for part in features.split(_CHUNK_SIZE):
            masks = down @ part @ across.T
            low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
            masks = torch.where(high > low, (masks - low) / (high - low), 0.0)
            scores.append(self.values(trace, row, trace.predict(image * masks[:, None]), classes))
        weights = torch.cat(scores).softmax(0)
        return torch.einsum("dk,dhw->khw", weights, features).relu_()
