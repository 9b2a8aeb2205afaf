"""Base of methods that differentiate a number of the class."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.capture import BackwardPass
from pipeline.explain.method import Method
from pipeline.explain.relevance_rules import LIBRA, rules_fault
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

    def unsupported(self, anatomy: Anatomy) -> str | None:
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

    def unsupported(self, anatomy: Anatomy) -> str | None:
        return super().unsupported(anatomy) or (rules_fault(anatomy) if self.backward == "libra" else None)

    @property
    def backward_pass(self) -> BackwardPass:
        return BackwardPass(self.target, LIBRA if self.backward == "libra" else None)


def embedding_relevance(trace: Trace, gradient: Tensor | None) -> Tensor:
    """Compute gradient × input at the output of the patch embedding: [B, 1, h, w].

    Args:
        trace: a recorded forward.
        gradient: of the target with respect to it.
    """
    assert gradient is not None
    return trace.to_grid((trace.embedding * gradient).sum(-1).flatten(1))
