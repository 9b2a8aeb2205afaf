"""Maps of relevance rules and of targets equal reference maps, which slow explicit code computed in another project."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from golden_models import GOLDEN, golden_model

from pipeline.explain import MapBatch, explain, methods

METHODS = {
    "attn_lrp": "attn_lrp",
    "attn_lrp_pixels": "attn_lrp:read=pixels",
    "attn_lrp_gamma": "attn_lrp:read=pixels:gamma=0.25",
    "cp_lrp_gamma": "cp_lrp:read=pixels:gamma=0.25",
    "cp_lrp_gamma_lxt": "cp_lrp:read=pixels:gamma=0.25:linear_gamma=0.05:gamma_in_attention=false",
    "libra_grad_input": "grad_input:backward=libra",
    "libra_grad_input_softmax": "grad_input:backward=libra:target=softmax",
    "libra_generic_attention": "generic_attention:backward=libra",
    "libra_gradcam": "gradcam:backward=libra",
    "libra_fullgrad_plus": "libra_fullgrad",
    "token_tm": "token_tm",
    "beyond_intuition_head": "beyond_intuition:variant=head:start=1",
    "beyond_intuition_head_start2": "beyond_intuition:variant=head:start=2",
    "beyond_intuition_token": "beyond_intuition:variant=token:start=1",
    "beyond_intuition_token_start2": "beyond_intuition:variant=token:start=2",
}
METHODS |= {
    f"{method}_{target}": f"{method}:target={target}"
    for method in ("grad_input", "gradcam", "generic_attention")
    for target in ("contrast_mean", "contrast_max", "logsoftmax", "softmax", "finer")
}
NOT_OFFERED = {f"{method}_finer_fixed" for method in ("grad_input", "gradcam", "generic_attention")}
"""Weights of ``finer`` that are held constant, which neither public code does."""
TOLERANCE = json.loads((GOLDEN / "new" / "cases.json").read_text())["tolerance"]


@cache
def maps_of(case: str, dtype: torch.dtype) -> MapBatch:
    """All maps of a golden network in one call."""
    data = np.load(GOLDEN / "new" / f"{case}.npz")
    model, images = golden_model(case).to(dtype), torch.tensor(data["x"]).to(dtype)
    return explain(model, images, torch.tensor(data["targets"]), list(METHODS.values()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["A", "E"])
def test_equals_the_golden_map(case: str, method: str, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[str(dtype).removeprefix("torch.")]["default"]  # no stabiliser, so for γ too
    computed = maps_of(case, dtype)[methods.parse(METHODS[method]).name]
    expected = np.load(GOLDEN / "new" / f"{case}.npz")[f"map_{method}"]
    assert computed.dtype == dtype
    assert np.abs(computed.numpy() - expected).max() <= tolerance * np.abs(expected).max()


def test_every_golden_map_is_compared() -> None:
    for case in "AE":
        names = {name.removeprefix("map_") for name in np.load(GOLDEN / "new" / f"{case}.npz") if "map_" in name}
        assert names - NOT_OFFERED == set(METHODS)
