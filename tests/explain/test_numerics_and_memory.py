"""Out-of-memory errors, collapsed attention, overflow in half precision."""

import copy
from contextlib import nullcontext

import pytest
import torch
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import Flag, describe, explain, flags, methods
from pipeline.explain.explainer import Explainer
from pipeline.explain.map_batch import precision_error
from pipeline.explain.model_state import preserve_model_state
from schemas.errors import RunFailedError

USUAL = [method.name for method in methods.defaults(describe(small_vit()))]
TARGETS = torch.tensor([[1, 4], [2, 2], [0, 9], [3, 3], [4, 1]])


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Memory for two images; the sizes of the batches that were tried."""
    tried: list[int] = []
    part = Explainer._explain_chunk

    def limited(self: Explainer, images: Tensor, *rest: object) -> object:
        tried.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return part(self, images, *rest)

    monkeypatch.setattr(Explainer, "_explain_chunk", limited)
    return tried


def explainer(model: nn.Module, names: list[str]) -> Explainer:
    return Explainer(model, describe(model), methods.resolve(names), 0)


def test_a_batch_that_does_not_fit_is_halved_and_the_size_is_kept(small_memory: list[int]) -> None:
    model, images = small_vit(), images_for(small_vit(), 5)
    bound = explainer(model, ["legrad", "reciprocam", "smoothgrad:samples=2", "integrated_gradients:nodes=2"])
    keys = list("abcde")
    with preserve_model_state(model):
        maps = bound.maps(images, lambda rows, _: TARGETS[rows], keys)
        assert small_memory == [5, 2, 2, 1]
        small_memory.clear()
        repeated = bound.maps(images, lambda rows, _: TARGETS[rows], keys)
        assert small_memory == [2, 2, 1]
    assert maps.logits.shape == (5, 10)
    assert maps.extra_outputs["integrated_gradients_nodes2_completeness"].shape == (5, 2)
    for name, values in maps.items():
        assert torch.equal(values, repeated[name])
        for row in range(5):
            alone = explain(model, images[row : row + 1], TARGETS[row : row + 1], bound.methods, keys=keys[row])
            assert torch.allclose(alone[name], values[row : row + 1], rtol=0, atol=1e-12)


def test_one_image_that_does_not_fit_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    monkeypatch.setattr(Explainer, "_explain_chunk", full)
    with pytest.raises(RunFailedError, match=r"not even one image fits .*Tried to allocate 2.00 GiB\); choose fewer"):
        explain(small_vit(), images_for(small_vit(), 2), TARGETS[:2], "legrad")


def test_attention_that_all_falls_on_one_token_gives_finite_maps(family: nn.Module) -> None:
    """Queries and keys a thousand times too large: a row of attention is a one and zeros."""
    sunk = copy.deepcopy(family).float()
    for block in sunk.blocks:
        for name in ("qkv", "q_proj", "k_proj"):
            layer = getattr(block.attn, name, None)
            if layer is not None:
                layer.weight.data[: 2 * 32] *= 1000
    names = [name for name in USUAL if not methods[name]().refusal(describe(sunk))]
    maps = explain(sunk, images_for(sunk).float(), TARGETS[:3], names)
    for name, values in maps.items():
        assert values.isfinite().all(), name
    assert not maps.flags("legrad").any() or maps.flags("legrad").max() == Flag.CONSTANT


def test_halves_that_overflow_are_flagged_not_hidden() -> None:
    model = small_vit().float()
    model.blocks[1].mlp.fc2.weight.data *= 1e6
    images = images_for(model, 2).float()
    full = explain(model, images, TARGETS[:2], USUAL)
    assert all(values.isfinite().all() for values in full.values())
    half = explain(model, images, TARGETS[:2], USUAL, precision="float16")
    assert half.flags("legrad").eq(Flag.NOT_FINITE).any()
    assert not half.flags("random").any()
    assert half["legrad"].dtype == torch.float32
    assert precision_error(half, full)["random"] == 0


def test_maps_are_flagged_by_what_they_hold() -> None:
    maps = torch.rand(2, 2, 3, 3)
    maps[0, 1] = 0.25
    maps[1, 0, 2, 1] = float("nan")
    maps[1, 1, 0, 0] = float("-inf")
    assert flags(maps).tolist() == [[Flag.OK, Flag.CONSTANT], [Flag.NOT_FINITE, Flag.NOT_FINITE]]
    assert flags(maps).dtype == torch.int8


def test_a_classifier_without_weights_gives_constant_maps() -> None:
    model = small_vit()
    model.head.weight.data[2] = 0
    maps = explain(model, images_for(model, 1), torch.tensor([[2, 3]]), ["legrad", "gradcam", "grad_input", "cp_lrp"])
    for name in maps:
        assert maps.flags(name).tolist() == [[Flag.CONSTANT, Flag.OK]], name


def test_drift_is_relative_to_the_largest_value_and_leaves_out_what_is_zero() -> None:
    exact = {"a": torch.tensor([[[[1.0, -4.0]]], [[[0.0, 0.0]]], [[[2.0, 1.0]]]]), "b": torch.zeros(1, 1, 1, 2)}
    maps = {"a": torch.tensor([[[[1.0, -3.0]]], [[[1.0, 0.0]]], [[[2.0, 1.5]]]]), "b": torch.ones(1, 1, 1, 2)}
    assert precision_error(maps, exact) == {"a": 0.25}


def saved_bytes(model: nn.Module, name: str) -> int:
    """Bytes that the graph of a method saves for its backward passes, each storage once."""
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no other one gets the address of a freed one

    def save(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        explain(model, images_for(model), TARGETS[:3, :1], name)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize(("name", "blocks"), [("gradcam", 1), ("attn_gradcam", 1), ("legrad:layers=last2", 2)])
def test_the_graph_holds_no_block_in_front_of_the_first_that_a_method_needs(name: str, blocks: int) -> None:
    shallow, deep = (saved_bytes(small_vit(depth=depth), name) for depth in (blocks, blocks + 3))
    assert shallow == deep
    assert saved_bytes(small_vit(depth=blocks + 3), "legrad") > deep * (blocks + 2) / blocks


@pytest.mark.parametrize(
    ("names", "targets", "kept"),
    [(["grad_input"], 1, False), (["grad_input"], 2, True), (["grad_input", "agcam"], 1, True)],
)
def test_a_graph_that_nothing_else_needs_is_freed_by_its_backward_pass(
    names: list[str], targets: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, traces = small_vit(), []
    record = Explainer._record
    monkeypatch.setattr(Explainer, "_record", lambda *given: traces.append(record(*given)) or traces[-1])
    with preserve_model_state(model):
        bound = explainer(model, names)
        bound.maps(images_for(model, 1), lambda rows, _: TARGETS[:1, :targets], ["a"])
    score = traces[0]._scores.sum()
    with nullcontext() if kept else pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(score, traces[0].images)
