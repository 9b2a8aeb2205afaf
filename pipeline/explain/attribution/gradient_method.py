"""Base of methods that differentiate a number of the class."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.capture import BackwardPass, Capture
from pipeline.explain.method import Method
from pipeline.explain.network import LAST, Network, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.relevance_rules import LIBRA
from pipeline.explain.target_score import Target, target_fault
from pipeline.explain.trace import Trace


@dataclass(frozen=True, kw_only=True)
class TargetMethod(Method):
    """Base of methods that explain a number of the class.

    Options:
        target: the number that is explained, see [targets](#targets).
    """

    later_options: ClassVar[tuple[str, ...]] = ("target",)

    target: Target = "logit"

    def unsupported(self, anatomy: Any) -> str | None:
        return target_fault(anatomy, self.target)

    @property
    def random_name(self) -> str:
        """Name that seeds random numbers: the same ones whatever is explained."""
        defaults: dict[str, Any] = {option.name: option.default for option in self.option_fields() if option.kw_only}
        return replace(self, **defaults).name


@dataclass(frozen=True, kw_only=True)
class GradientMethod(TargetMethod):
    """Base of methods of gradients.

    Options:
        backward: the ordinary gradient, or that of LibraGrad, see [backward passes](#backward-passes).
    """

    later_options: ClassVar[tuple[str, ...]] = ("target", "backward")

    backward: Literal["ordinary", "libra"] = "ordinary"

    @property
    def requires(self) -> tuple[Requirement, ...]:
        return (self.requirement, Requirement.LAYERS) if self.backward == "libra" else (self.requirement,)

    @property
    def backward_pass(self) -> BackwardPass:
        return BackwardPass(self.target, LIBRA if self.backward == "libra" else None)


@dataclass(frozen=True, kw_only=True)
class FeatureMethod(GradientMethod):
    """Base of methods of gradients that are read at a grid of features.

    Options:
        layer: ``last`` is the grid in front of the read-out; ``stage1`` to ``stage4`` of a network of stages are the
            last features of which each covers 4, 8, 16 and 32 pixels in a row. Maps have the grid of their layer.
    """

    later_options: ClassVar[tuple[str, ...]] = ("target", "backward", "layer")
    requirement: ClassVar[Requirement] = Requirement.FEATURES

    layer: str = LAST

    @property
    def layer_name(self) -> str:
        return self.layer

    def needs(self, anatomy: Network) -> Capture:
        return Capture.LAST_GRADIENTS

    def first_block(self, anatomy: Anatomy) -> int:
        return anatomy.depth - 1

    def features_and_gradient(self, trace: NetworkTrace, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the layer and the gradient of the target with respect to them: [B, N, D] each."""
        features = trace.features_at(self.layer)
        return features, trace.feature_gradients(self.layer, targets, self.backward_pass)


def embedding_relevance(trace: Trace, gradient: Tensor | None) -> Tensor:
    """Compute gradient × input at the output of the patch embedding: [B, 1, h, w].

    Args:
        trace: a recorded forward.
        gradient: of the target with respect to it.
    """
    assert gradient is not None
    return trace.to_grid((trace.embedding * gradient).sum(-1).flatten(1))
