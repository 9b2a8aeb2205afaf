"""The maps equal the reference maps, which were computed by slow explicit code and checked against others."""

from functools import cache

import numpy as np
import pytest
import torch
from golden_models import CASES, GOLDEN, golden_model

from pipeline.explain import AGCAM, IntegratedGradients, LeGrad, MapBatch, ReciproCAM, explain, methods

METHODS = {
    "attention": "attention",
    "rollout": "rollout",
    "generic_attention": "generic_attention",
    "gradcam": "gradcam",
    "attn_gradcam": "attn_gradcam",
    "agcam": "agcam",
    "agcam_fullgrad": AGCAM(full_gradient=True),
    "legrad": "legrad",
    "legrad_last2": LeGrad(layers="last2"),
    "reciprocam": "reciprocam",
    "reciprocam_logit": ReciproCAM(score="logit"),
    "reciprocam_1x1": ReciproCAM(kernel="single"),
    "grad_input": "grad_input",
    "integrated_gradients": IntegratedGradients(nodes=64),
    "cp_lrp": "cp_lrp",
    "pm": "pm_zs",
    "transformer_attribution": "transformer_attribution",
}


@cache
def maps_of(case: str, dtype: torch.dtype) -> MapBatch:
    """All maps of a golden network in one call."""
    data = np.load(GOLDEN / f"{case}.npz")
    model, images = golden_model(case).to(dtype), torch.tensor(data["x"]).to(dtype)
    methods = [METHODS[method] for method in CASES["cases"][case]["methods"]]
    return explain(model, images, torch.tensor(data["targets"]), methods)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("case", "method"), [(name, method) for name, case in CASES["cases"].items() for method in case["methods"]]
)
def test_equals_the_golden_map(case: str, method: str, dtype: torch.dtype) -> None:
    tolerances = CASES["tolerance"][str(dtype).removeprefix("torch.")]
    tolerance = tolerances.get(method, tolerances["default"])
    if tolerance is None:
        pytest.skip("divides by sums near zero; compared in float64 only, as the reference says")
    (name,) = (entry.name for entry in methods.resolve([METHODS[method]]))
    computed = maps_of(case, dtype)[name]
    expected = np.load(GOLDEN / f"{case}.npz")[f"map_{method}"]
    assert computed.dtype == dtype
    assert np.abs(computed.numpy() - expected).max() <= tolerance * np.abs(expected).max()
