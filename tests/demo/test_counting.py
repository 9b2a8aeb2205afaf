"""Where a network is known to count red cells, the gates that were trained for it tell them apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from counting_task import (
    counting_accuracy,
    normalize_cells,
    sample_cell_images,
    score_maps,
    to_markdown,
    train_counter,
    train_diffmask,
)

from pipeline.explain import explain


def test_pictures_have_every_number_of_red_cells_as_often() -> None:
    grids = sample_cell_images(5000, 0)
    assert (grids.pixels[:, :, ::16, ::16].reshape(5000, 3, 9) == [[255], [0], [0]]).all(1)[grids.red].all()
    assert ((grids.pixels[:, 0, ::16, ::16] == 255).reshape(5000, 9).sum(1) >= grids.labels).all()
    counts = np.bincount(grids.labels, minlength=10)
    assert len(counts) == 10
    assert counts.min() > 400


RED = np.array([[True] * 4 + [False] * 5, [False] * 3 + [True] * 6])


@pytest.mark.parametrize(
    ("maps", "auroc", "spread"),
    [
        (RED * 2.0, 1.0, 0.0),
        (RED * -3.0, 1.0, 0.0),  # the others counted
        (np.zeros((2, 9)), 0.5, np.inf),
        (np.tile([9.0, 9, 9, 1, 2, 0, 0, 0, 0], (2, 1)), None, None),
    ],
)
def test_the_score_of_known_maps(maps: np.ndarray, auroc: float | None, spread: float | None) -> None:
    found = score_maps(torch.from_numpy(maps).reshape(2, 3, 3), RED)
    if spread is not None:
        assert (found.auroc, found.spread) == (auroc, spread)
    else:
        assert found.auroc < 1
        assert found.spread > 0


def test_random_maps_score_a_half() -> None:
    grids = sample_cell_images(2000, 1)
    torch.manual_seed(0)
    found = score_maps(torch.rand(2000, 3, 3), grids.red)
    assert found.auroc == pytest.approx(0.5, abs=0.02)


@pytest.mark.soak
def test_gates_beat_what_they_are_compared_with(tmp_path: Path) -> None:
    """Rollout, Grad-CAM and generic attention, on a network that counts without a mistake."""
    loaded = train_counter(steps=500)
    assert counting_accuracy(loaded.model) > 0.99
    methods = [train_diffmask(loaded, tmp_path, steps=300, alphas=(20.0,)), "rollout", "gradcam", "generic_attention"]
    grids = sample_cell_images(200, 3)
    maps = explain(loaded.model, normalize_cells(grids), torch.from_numpy(grids.labels)[:, None], methods)
    found = {name: score_maps(values[:, 0], grids.red) for name, values in maps.items()}
    assert found["diffmask"].auroc > 0.95
    assert max(each.auroc for name, each in found.items() if name != "diffmask") < 0.9
    assert to_markdown([found]).splitlines()[2].startswith("| `diffmask` |")
