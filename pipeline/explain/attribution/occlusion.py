"""Occlusion."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.explain.attribution.perturbation import PerturbationMethod
from pipeline.explain.network import Network, Requirement
from pipeline.explain.network_trace import NetworkTrace
from pipeline.explain.registry import methods

_CHUNK_SIZE = 32
"""Largest number of occluded images in memory; changes nothing else."""


@methods.register
@dataclass(frozen=True)
class Occlusion(PerturbationMethod):
    """Fall of the probability of the class when a window of the image is hidden, averaged over the windows.

    A window of n × n patches moves over the grid by one patch; its pixels become 0 in the normalized image, the mean
    color of the dataset. E_i = mean of p_c(x) − p_c(x without the window) over the windows that cover patch i; signed.
    Cost: a forward for each window, whatever the number of classes.

    The paper hides gray squares and shows the probability itself. captum's Occlusion averages in the same way.

    Options:
        target: the number of each copy that takes the place of the probability, see [targets](#targets).
        window: n, side of the window in patches.
    """

    base_name = "occlusion"
    paper = "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014"
    cost = "windows"
    requirement = Requirement.IMAGES

    window: int = 1

    def unsupported(self, anatomy: Network) -> str | None:
        if not 1 <= self.window <= min(anatomy.grid):
            return f"window is {self.window}; the grid has {anatomy.grid[0]} × {anatomy.grid[1]} patches"
        return super().unsupported(anatomy)

    def explain_image(self, trace: NetworkTrace, row: int, classes: Tensor) -> Tensor:
        image, (rows, columns) = trace.images[row], trace.anatomy.grid
        starts = [(y, x) for y in range(rows - self.window + 1) for x in range(columns - self.window + 1)]
        whole = self.values(trace, row, trace.logits[row : row + 1].to(image), classes)
        total, covering = image.new_zeros(len(classes), rows, columns), image.new_zeros(rows, columns)
        down, across = trace.anatomy.cell_edges
        for first in range(0, len(starts), _CHUNK_SIZE):
            part = starts[first : first + _CHUNK_SIZE]
            copies = image.expand(len(part), -1, -1, -1).clone()
            for copy, (y, x) in zip(copies, part, strict=True):
                copy[:, down[y] : down[y + self.window], across[x] : across[x + self.window]] = 0
            falls = whole - self.values(trace, row, trace.predict(copies), classes)
            for fall, (y, x) in zip(falls, part, strict=True):
                window = slice(y, y + self.window), slice(x, x + self.window)
                total[:, *window] += fall[:, None, None]
                covering[window] += 1
        return total / covering
