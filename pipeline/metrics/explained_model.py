"""Model together with the methods that explain it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.explain import MapBatch, Method, Network
from pipeline.explain.explainer import Explainer
from pipeline.metrics.linear_as_convolution import LinearAsConvolution
from pipeline.metrics.patch_mixing import PatchMixer, make_patch_mixer
from pipeline.utils.random import rng_for

_BATCH_SIZE = {"cpu": 32, "cuda": 128}
"""Images of ``explain_copies`` that are explained together, by device type."""


@dataclass
class ExplainedModel:
    """Model with its methods. Calls must run inside ``preserve_model_state``.

    Attributes:
        model: the network.
        anatomy: its structure.
        mean: channel means [3, 1, 1] of the normalization, on the device of the model.
        std: channel standard deviations, likewise.
        methods: methods by the names of their maps in the atlas.
        seed: seed of methods that sample.
    """

    model: nn.Module
    anatomy: Network
    mean: Tensor
    std: Tensor
    methods: Mapping[str, Method]
    seed: int
    _explainers: dict[tuple[str, ...], Explainer] = field(default_factory=dict)
    _randomized: dict[int, dict[str, Tensor]] = field(default_factory=dict)

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
        with LinearAsConvolution():
            return self._explainers[chosen].maps(images, lambda rows, _: wanted[rows], keys)

    def explain_copies(
        self, copies: Iterable[Tensor], class_ids: NDArray[np.int64], keys: Sequence[str], names: Sequence[str] = ()
    ) -> Iterator[dict[str, Tensor]]:
        """Yield raw maps [B, K, h, w] by method for each of several versions of the same images.

        As many as make a batch of 32 images, on a GPU of 128, are computed together, since a shard may give few images.

        Args:
            copies: versions of the images, each float [B, 3, H, W], normalized.
            class_ids: see ``explain``; the same for all versions, as are the keys.
            keys: see ``explain``.
            names: see ``explain``.
        """
        size, remaining = len(keys), iter(copies)
        at_once = max(1, _BATCH_SIZE[self.mean.device.type] // size)
        while group := list(islice(remaining, at_once)):
            together = np.tile(class_ids, (len(group), 1))
            maps = self.explain(torch.cat(group), together, [*keys] * len(group), names)
            for first in range(0, len(group) * size, size):
                yield {name: values[first : first + size] for name, values in maps.items()}

    def with_model(self, model: nn.Module) -> "ExplainedModel":
        """Return the same methods with another model of the same architecture."""
        return replace(self, model=model, _explainers={}, _randomized={})

    def randomized_parameters(self, seed: int) -> Mapping[str, Tensor]:
        """Return ``randomize_parameters`` of the model; they are sampled once for each seed, not for each batch."""
        if seed not in self._randomized:
            self._randomized[seed] = randomize_parameters(self.model, seed)
        return self._randomized[seed]


def randomize_parameters(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Sample other values for all parameters: on the device and of the dtype of each, by its name.

    A parameter becomes normal noise of its own mean and standard deviation, from its name and the seed alone: a bare
    parameter has no initializer to return to, and activations keep their scale. A parameter whose values are all equal
    holds nothing learned, and stays.

    Args:
        model: vision transformer, which is not changed.
        seed: seed of the noise.
    """
    randomized = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        noise = torch.from_numpy(rng_for("faith forget", name, seed).standard_normal(values.shape))
        mean, std = values.double().mean(), values.double().std(correction=0)
        randomized[name] = (mean + std * noise.to(values.device)).to(values.dtype)
    return randomized
