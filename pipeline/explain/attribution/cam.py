"""Class activation mapping."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.method import Method, readout_fault
from pipeline.explain.network import Network, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods


@methods.register
@dataclass(frozen=True)
class CAM(Method):
    """Share of each position in the logit of a classifier that reads the mean of the features.

    E_i = Σ_k w_kc F_ik with F the features in front of the mean [N, D] and w the weights of the classifier, so that
    y_c = mean of E + b_c. It is y_c(F_i) − y_c(0), the logit of one position without the bias, and computed by the
    network's own read-out, which holds for every read-out that is linear. Raw values, as in the paper; signed.
    """

    base_name = "cam"
    multi_target = True
    paper = "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016"
    cost = "≈0.02"
    requirement = Requirement.FEATURES

    def unsupported(self, anatomy: Network) -> str | None:
        if anatomy.has_linear_readout:
            return None
        if fault := readout_fault(anatomy):
            return f"{fault}; take gradcam"
        if "mean" not in anatomy.readout:
            return "its classifier does not read the mean of the features, of which CAM is the sum; take gradcam"
        return (
            "between the mean of the features and the logits is more than a linear layer, such as a norm or a hidden "
            "layer, so that positions have no shares; take gradcam"
        )

    def compute(self, trace: NetworkTrace, targets: Tensor) -> Tensor:
        return trace.to_grid(trace.position_shares(targets))
