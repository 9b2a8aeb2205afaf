"""Methods that show the network parts of an image, very many times."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.method import Method
from pipeline.explain.trace import Trace


@dataclass(frozen=True)
class Sampling(Method):
    """Base of these: one image after the other, all classes at once."""

    at_once = True
    usual = False

    def compute(self, trace: Trace, targets: Tensor) -> Tensor:
        maps = trace.images.new_empty(*targets.shape, *trace.anatomy.grid)
        for row, classes in enumerate(targets):
            maps[row] = self.of_image(trace, row, classes)
        return maps

    @abstractmethod
    def of_image(self, trace: Trace, row: int, classes: Tensor) -> Tensor:
        """Maps of one image, one for each of its classes: [classes, h, w]."""
