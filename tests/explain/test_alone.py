"""A map does not depend on the methods beside it, bit by bit: an atlas that is extended is one that was planned so."""

import pytest
import torch
from support import FAMILIES, SHORT, images_for, small_vit, soak_after

from pipeline.explain import describe
from pipeline.explain.explainer import Explainer
from pipeline.explain.map_batch import MapBatch
from pipeline.explain.method import Method
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.registry import methods as registry

TARGETS = torch.tensor([[1, 1], [2, 3], [4, 4], [5, 6]])
"""Of label and prediction: some images have one class, so the second targets are computed in a smaller batch."""


@pytest.mark.parametrize("family", soak_after(2, FAMILIES))
def test_a_method_gives_the_same_bits_alone_and_among_all(family: str) -> None:
    model = small_vit(**FAMILIES[family]).float()
    anatomy, images = describe(model), images_for(model, len(TARGETS)).float()

    def explain(*methods: Method) -> MapBatch:
        with preserve_model_state(model):
            explainer = Explainer(model, anatomy, methods, seed=0)
            return explainer.maps(images, lambda rows, _: TARGETS[rows], ["a", "b", "c", "d"])

    candidates = (registry.parse(SHORT.get(name, name)) for name in registry)
    chosen = [method for method in candidates if not method.refusal(anatomy)]
    together = explain(*chosen)
    assert len(together) > 15
    for method in chosen:
        alone = explain(method)
        assert torch.equal(alone[method.name], together[method.name]), method.name
        assert torch.equal(alone.logits, together.logits), method.name
