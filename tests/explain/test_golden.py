"""The maps equal the reference maps, which were computed by slow explicit code and checked against others."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.explain import LeGrad, ReciproCAM, explain

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
METHODS = {
    "attention": "attention",
    "rollout": "rollout",
    "legrad": "legrad",
    "legrad_last2": LeGrad(layers="last2"),
    "reciprocam": "reciprocam",
    "reciprocam_logit": ReciproCAM(score="logit"),
    "reciprocam_1x1": ReciproCAM(kernel="single"),
}


def golden_model(name: str) -> torch.nn.Module:
    case = CASES["cases"][name]
    module, _, constructor = case["constructor"].rpartition(".")
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in case["kwargs"].items()}
    model = getattr(importlib.import_module(module), constructor)(**options).eval()
    weights = load_file(GOLDEN / f"{name}.safetensors")
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("diffmask.")})
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES["cases"])
def test_equals_the_golden_map(case: str, method: str, dtype: torch.dtype) -> None:
    data = np.load(GOLDEN / f"{case}.npz")
    model, images = golden_model(case).to(dtype), torch.tensor(data["x"]).to(dtype)
    maps = explain(model, images, torch.tensor(data["targets"]), [METHODS[method]])
    ((_, found),) = maps.items()
    expected = data[f"map_{method}"]
    assert found.dtype == dtype
    tolerances = CASES["tolerance"][str(dtype).removeprefix("torch.")]
    tolerance = tolerances.get(method, tolerances["default"])
    assert np.abs(found.numpy() - expected).max() <= tolerance * np.abs(expected).max()
