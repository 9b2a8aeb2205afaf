"""A network that can be asked: what it says of images, and what methods say of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.explain import Anatomy, MapBatch, Method
from pipeline.explain.explainer import Explainer
from pipeline.metrics.patch_mixing import Pieces, pieces


@dataclass
class ExplainedModel:
    """A network with the methods that explain it. It must be ``undisturbed`` around every call.

    Attributes:
        mean, std: of each channel, [3, 1, 1], on its device.
        methods: by the names that their maps have in the atlas.
        seed: of the methods that draw at random.
    """

    model: nn.Module
    anatomy: Anatomy
    mean: Tensor
    std: Tensor
    methods: Mapping[str, Method]
    seed: int
    _explainers: dict[tuple[str, ...], Explainer] = field(default_factory=dict)

    @cached_property
    def pieces(self) -> Pieces:
        """How its pictures are cut."""
        return pieces(self.model, self.anatomy)

    def explain(
        self, images: Tensor, targets: NDArray[np.int64], keys: Sequence[str], names: Sequence[str] = ()
    ) -> MapBatch:
        """Raw maps [B, K, h, w] of some methods, by name; without names, of all.

        Args:
            images: [B, 3, H, W], normalised.
            targets: int64 [B, K].
            keys: a name for each image, see ``pipeline.explain.explain``.
        """
        chosen = tuple(names or self.methods)
        if chosen not in self._explainers:
            methods = tuple(self.methods[name] for name in chosen)
            self._explainers[chosen] = Explainer(self.model, self.anatomy, methods, self.seed)
        wanted = torch.from_numpy(targets)
        return self._explainers[chosen].maps(images, lambda rows, _: wanted[rows], keys)

    def with_model(self, model: nn.Module) -> "ExplainedModel":
        """The same methods on another network of the same build."""
        return replace(self, model=model, _explainers={})
