"""The golden networks: their weights, inputs and what must come out stand in ``tests/golden``."""

import importlib
import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())


def golden_model(name: str) -> nn.Module:
    """A golden network, in float32."""
    case = CASES["cases"][name]
    module, _, constructor = case["constructor"].rpartition(".")
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in case["kwargs"].items()}
    model = getattr(importlib.import_module(module), constructor)(**options).eval()
    weights = load_file(GOLDEN / f"{name}.safetensors")
    model.load_state_dict({key: value for key, value in weights.items() if not key.startswith("diffmask.")})
    return model
