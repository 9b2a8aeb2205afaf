"""The gates of Vision DiffMask against their closed forms and golden values."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_models import GOLDEN, golden_model
from safetensors.torch import load_file, save_file
from support import images_for, small_vit
from torch import Tensor, nn

from pipeline.explain import DiffMask, UnsupportedMethod, describe, explain, methods
from pipeline.explain.artifacts import read_artifact, write_artifact
from pipeline.explain.attribution.diffmask import hidden_states, masked_logits
from pipeline.explain.capture import Capture
from pipeline.explain.diffmask_gates import (
    LOW,
    TEMPERATURE,
    DiffMaskGates,
    keep_probability,
    log_keep_probability,
    sample_gates,
)
from pipeline.explain.model_state import preserve_model_state
from pipeline.explain.trace import Trace, record_forward
from pipeline.explain.weights_hash import weights_hash
from pipeline.train.diffmask_training import initialize_gates
from schemas.artifacts import ArtifactRecord
from schemas.errors import UsageError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden gates, as a file of their own."""
    weights = load_file(GOLDEN / "A.safetensors")
    path = tmp_path_factory.mktemp("gates") / "gates.safetensors"
    save_file({k.removeprefix("diffmask."): v for k, v in weights.items() if k.startswith("diffmask.")}, path)
    return path


def close(computed: Tensor, expected: np.ndarray) -> bool:
    return bool(np.abs(computed.detach().numpy() - expected).max() <= 1e-9 * np.abs(expected).max())


def test_gates_equal_their_golden_values(artifact: Path) -> None:
    model, data = golden_model("A").double(), np.load(GOLDEN / "A.npz")
    images = torch.tensor(data["x"]).double()
    method = DiffMask.load(artifact)
    assert close(method.gates(model, images), data["diffmask_keep"])
    maps = explain(model, images, torch.tensor(data["targets"]), method)["diffmask"]
    assert close(maps[:, 0], data["diffmask_mask"])
    assert torch.equal(maps[:, 0], maps[:, 1])
    gates = DiffMaskGates.from_tensors(load_file(artifact)).double()
    with preserve_model_state(model), torch.no_grad():
        trace = record_forward(model, describe(model), images, Capture.TOKENS, ("",) * 3, 0)
        logits = gates.logits(hidden_states(trace))
        assert close(logits.unflatten(2, (6, 6)), data["diffmask_logits"])
        assert close(expected_gate(logits).unflatten(2, (6, 6)), data["diffmask_expected_gate"])
        assert close(expected_gate(logits).prod(1).unflatten(1, (6, 6)), data["diffmask_expected_product"])
        masked = masked_logits(model, gates, trace, maps[:, 0].flatten(1))
    assert close(masked, data["diffmask_masked_output"])


def expected_gate(logits: Tensor) -> Tensor:
    """E[z] = ∫₀¹ P(z > t) dt = ∫₀¹ σ(a − 0.2 · logit((t + 0.2) / 1.2)) dt, to 10⁻¹³."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    place = (1 - nodes) / 2
    t = 1 - place**4  # nodes dense near 1, where the integrand has a logarithm
    points = torch.from_numpy((t - LOW) / (1 - LOW)).to(logits)
    probability_above = torch.sigmoid(logits[..., None] - TEMPERATURE * torch.logit(points))
    return probability_above @ torch.from_numpy(4 * place**3 * weights / 2).to(logits)


@pytest.mark.parametrize(("logit", "probability"), [(-2, 0.15735), (0, 0.57978), (1, 0.78950), (5, 0.99514)])
def test_the_probability_to_be_kept_has_its_closed_form(logit: float, probability: float) -> None:
    computed = keep_probability(torch.tensor(float(logit), dtype=torch.float64))
    assert computed.item() == pytest.approx(probability, abs=1e-5)
    assert log_keep_probability(torch.tensor(float(logit))).item() == pytest.approx(math.log(probability), abs=1e-4)


@pytest.mark.parametrize(("logit", "mean"), [(0, 0.4739), (1, 0.7062), (5, 0.9922)])
def test_samples_have_the_distribution_that_the_closed_forms_say(logit: float, mean: float) -> None:
    assert expected_gate(torch.tensor([float(logit)], dtype=torch.float64)).item() == pytest.approx(mean, abs=1e-4)
    uniform = torch.rand(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampled = sample_gates(torch.tensor(float(logit), dtype=torch.float64), uniform)
    assert 0 <= sampled.min() <= sampled.max() <= 1
    assert sampled.mean().item() == pytest.approx(mean, abs=5e-3)
    probability = keep_probability(torch.tensor(float(logit))).item()
    assert (sampled > 0).double().mean().item() == pytest.approx(probability, abs=5e-3)


def test_gates_begin_all_but_open() -> None:
    gates = initialize_gates(32, 12, 8.0, 0)
    for probe in gates.probe:
        for parameter in (probe.W1, probe.b1, probe.W2, probe.b2):
            parameter.data[:] = 0
    state = torch.randn(1, 4, 32)
    mask = keep_probability(gates.logits([state] * 14)).prod(1)
    assert mask.flatten()[0].item() == pytest.approx(0.99660, abs=1e-5)


def traced(model: nn.Module) -> tuple[Trace, DiffMaskGates]:
    anatomy = describe(model)
    gates = initialize_gates(anatomy.width, anatomy.depth, 1.0, 0).to(next(model.parameters()))
    return record_forward(model, anatomy, images_for(model), Capture.TOKENS, ("",) * 3, 0), gates


@torch.no_grad()
def test_an_open_mask_changes_nothing_and_a_closed_one_leaves_nothing(family: nn.Module) -> None:
    with preserve_model_state(family):
        trace, gates = traced(family)
        ones = torch.ones(3, trace.anatomy.patches, dtype=torch.float64)
        assert torch.allclose(masked_logits(family, gates, trace, ones), trace.logits, rtol=0, atol=1e-12)
        closed = masked_logits(family, gates, trace, 0 * ones)
    assert torch.allclose(closed, closed[:1].expand_as(closed), rtol=0, atol=1e-12)
    assert not torch.allclose(trace.logits[0], trace.logits[1], atol=1e-3)


@torch.no_grad()
def test_the_mask_never_grows_with_the_probes(family: nn.Module) -> None:
    with preserve_model_state(family):
        trace, gates = traced(family)
        keep = keep_probability(gates.logits(hidden_states(trace)))
    assert keep.shape == (3, 5, trace.anatomy.patches)
    assert (keep.cumprod(1).diff(dim=1) <= 0).all()


def test_without_gates_it_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnsupportedMethod, match=r"it needs a file .* diffmask:artifact=FILE"):
        explain(small_vit(), images_for(small_vit()), torch.zeros(3, 1, dtype=torch.int64), "diffmask")


def test_gates_of_another_architecture_are_refused(artifact: Path) -> None:
    model = small_vit()
    with pytest.raises(UnsupportedMethod, match="are for 3 blocks of width 64"):
        explain(model, images_for(model), torch.zeros(3, 1, dtype=torch.int64), DiffMask.load(artifact))


def test_a_file_that_holds_no_gates_is_refused(tmp_path: Path, artifact: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        DiffMask.load(tmp_path / "nowhere.safetensors")
    tensors = load_file(artifact)
    for name, change in {
        "none": {"weight": torch.zeros(1)},
        "missing": {k: v for k, v in tensors.items() if k != "probe.1.W2"},
        "misshapen": tensors | {"probe.1.b1": torch.zeros(3)},
    }.items():
        save_file(change, tmp_path / f"{name}.safetensors")
        with pytest.raises(UsageError, match="is not an artifact of Vision DiffMask"):
            DiffMask.load(tmp_path / f"{name}.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        DiffMask.load(tmp_path / "text.safetensors")


def test_gates_are_refused_for_other_weights_than_they_learnt_on(tmp_path: Path) -> None:
    model = small_vit()
    gates = initialize_gates(describe(model).width, describe(model).depth, 1.0, 0)
    card = ArtifactRecord(
        method="diffmask",
        provenance="Vision DiffMask",
        model="small",
        weights=weights_hash(model),
        settings={"rate": 0.1},
        shards=("train.tar",),
        steps=3,
        batch_size=2,
        seed=0,
        metrics={"kl": 0.1},
    )
    write_artifact(tmp_path / "gates.safetensors", gates.state_dict(), card)
    method = DiffMask.load(tmp_path / "gates.safetensors")
    assert read_artifact(method.artifact).record == card
    targets = torch.zeros(3, 1, dtype=torch.int64)
    double = explain(model, images_for(model), targets, method)["diffmask"]
    single = explain(model.float(), images_for(model).float(), targets, method)["diffmask"]
    assert torch.allclose(single.double(), double, atol=1e-5)  # the same network in another precision
    model.head.bias.data += 1
    with pytest.raises(UnsupportedMethod, match=r"was trained for a model with other weights \(sha256:"):
        explain(model, images_for(model).float(), targets, method)


def test_gates_are_refused_for_another_read_out_of_the_same_weights(tmp_path: Path) -> None:
    options = {"name": "vit_small_patch16_dinov3"}
    token, mean = (small_vit(**options, global_pool=pool) for pool in ("token", "avg"))
    assert weights_hash(token) == weights_hash(mean)
    gates = initialize_gates(describe(token).width, describe(token).depth, 1.0, 0)
    card = ArtifactRecord(
        method="diffmask", provenance="Vision DiffMask", model="small", weights=weights_hash(token), readout="token",
        settings={}, shards=(), steps=1, batch_size=1, seed=0, metrics={},
    )  # fmt: skip
    write_artifact(tmp_path / "gates.safetensors", gates.state_dict(), card)
    method = DiffMask.load(tmp_path / "gates.safetensors")
    targets = torch.zeros(3, 1, dtype=torch.int64)
    explain(token, images_for(token), targets, method)
    with pytest.raises(UnsupportedMethod, match="trained for the read-out token, and this model has mean"):
        explain(mean, images_for(mean), targets, method)


def test_where_the_gates_stand_is_no_part_of_the_name_and_means_the_same_everywhere(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(artifact.parent)
    method = DiffMask.load(artifact.name)
    assert method == methods.parse(f"diffmask:artifact={artifact}")
    assert method.name == "diffmask"
    assert method.spec == f"diffmask:artifact={artifact}"
