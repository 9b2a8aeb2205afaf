"""Model together with the methods that explain it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.explain import Anatomy, MapBatch, Method
from pipeline.explain.explainer import Explainer
from pipeline.metrics.patch_mixing import PatchMixer, make_patch_mixer


@dataclass
class ExplainedModel:
    """Model with its methods. Calls must run inside ``preserve_model_state``.

    Attributes:
        model: vision transformer.
        anatomy: its structure.
        mean: channel means [3, 1, 1] of the normalization, on the device of the model.
        std: channel standard deviations, likewise.
        methods: methods by the names of their maps in the atlas.
        seed: seed of methods that sample.
    """

    model: nn.Module
    anatomy: Anatomy
    mean: Tensor
    std: Tensor
    methods: Mapping[str, Method]
    seed: int
    _explainers: dict[tuple[str, ...], Explainer] = field(default_factory=dict)

    @cached_property
    def mixer(self) -> PatchMixer:
        """Composer of images from patches of two images."""
        return make_patch_mixer(self.model, self.anatomy)

    def explain(
        self, images: Tensor, class_ids: NDArray[np.int64], keys: Sequence[str], names: Sequence[str] = ()
    ) -> MapBatch:
        """Compute raw maps [B, K, h, w] by method.

        Args:
            images: float [B, 3, H, W], normalized.
            class_ids: int64 [B, K].
            keys: key of each image, see ``pipeline.explain.explain``.
            names: methods; empty means all.
        """
        chosen = tuple(names or self.methods)
        if chosen not in self._explainers:
            methods = tuple(self.methods[name] for name in chosen)
            self._explainers[chosen] = Explainer(self.model, self.anatomy, methods, self.seed)
        wanted = torch.from_numpy(class_ids)
        return self._explainers[chosen].maps(images, lambda rows, _: wanted[rows], keys)

    def with_model(self, model: nn.Module) -> "ExplainedModel":
        """Return the same methods with another model of the same architecture."""
        return replace(self, model=model, _explainers={})
