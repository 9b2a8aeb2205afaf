"""ViRelAy and Quantus themselves open what is exported to them, each in an interpreter of its own (licences)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit.describe import coverage, inside
from pipeline.demo.world import World
from pipeline.faith.sparsity import gini
from pipeline.label.score_map import window
from pipeline.store import Atlas
from pipeline.truth import read_truth

# Without what they need, but for what is not here anyway.
PACKAGES = ("virelay==0.6.1", "gunicorn==23.0.0", "quantus==0.6.0", "cachetools==6.2.1")


@pytest.fixture(scope="module")
def peer(request: pytest.FixtureRequest) -> list[str]:
    """Command of an interpreter that has both, as far as they can be installed beside what is here."""
    if os.environ.get("VITATLAS_PEERS"):
        return [os.environ["VITATLAS_PEERS"]]
    folder = request.config.cache.mkdir("peers-" + re.sub(r"[^a-z0-9.]+", "-", "-".join(PACKAGES)))
    if not (folder / "ready").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*install, "--target", folder, *PACKAGES], capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"cannot be installed: {' '.join(done.stderr.split())[-200:]}")
        (folder / "ready").touch()
    return ["env", f"PYTHONPATH={folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", sys.executable]


def run(peer: list[str], *arguments: object, folder: Path) -> str:
    done = subprocess.run([*peer, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("method", ["legrad", "center"])
def test_virelay_opens_a_project(atlas: Atlas, audit: Path, peer: list[str], method: str) -> None:
    script = Path(__file__).with_name("open_virelay.py")
    found = json.loads(run(peer, script, audit / "virelay" / f"{method}.yaml", folder=audit))
    samples = atlas.samples().to_pylist()
    assert found["name"] == f"{method} (label)"
    assert len(found["pictures"]) == len(samples) == 48
    for picture, sample in zip(found["pictures"], samples, strict=True):
        assert picture["labels"] == [[sample["label"], str(sample["label"])]]
        assert picture["prediction"] == sample["prediction"]
        assert np.array_equal(picture["map"], atlas.map(sample["row"], method))
        assert picture["rendered"] == [[8, 8, 3], [96, 96, 3]] * 3
    assert len({picture["pixels"] for picture in found["pictures"]}) == 48
    assert {each["name"] for each in found["categories"]} == {str(sample["label"]) for sample in samples}
    places = [place for each in found["categories"] for place in each["places"]]
    assert sorted(places) == list(range(48))
    for each in found["categories"]:
        assert {samples[place]["label"] for place in each["places"]} == {int(each["readable"])}
        assert len(each["clusters"]) == len(each["embedding"]) == len(each["places"])
        assert {len(row) for row in each["embedding"]} == {len(each["eigenvalues"])}


def readme(audit: Path, tar: str, use: str = "") -> str:
    """The lines of the README, for a tar, and what is printed of them."""
    (code,) = re.findall(r"```python\n(.*?)```", (audit / "quantus" / "README.md").read_text(), re.DOTALL)
    code = re.sub("^tar = .*", f"tar = {tar!r}", code, flags=re.MULTILINE).replace("a/attention", "a/legrad")
    return f"{code}\n{use}\nimport json\nprint(json.dumps([float(each) for each in scores]))"


def test_quantus_measures_sparseness_as_we_do(atlas: Atlas, audit: Path, peer: list[str]) -> None:
    tar = next(iter(atlas.commits))
    use = "scores = quantus.Sparseness(disable_warnings=True)(model=None, x_batch=x, y_batch=y, a_batch=a)"
    found = json.loads(run(peer, "-c", readme(audit, tar, use), folder=audit / "quantus").splitlines()[-1])
    assert found == pytest.approx(gini(atlas.tar(tar).maps("legrad")), abs=1e-4)


def test_quantus_finds_as_much_mass_inside_as_we_do(atlas: Atlas, audit: Path, world: World, peer: list[str]) -> None:
    """By the lines of the README as they stand."""
    tar, truths, size = next(iter(atlas.commits)), read_truth(world.truth), atlas.run.model.input_size
    found = json.loads(run(peer, "-c", readme(audit, tar), folder=audit / "quantus").splitlines()[-1])
    covered = []
    for sample in atlas.tar(tar).samples.to_pylist():
        seen = window(sample, size)
        covered.append(
            coverage(truths.of(sample["key"]), sample["width"], sample["height"], seen, atlas.run.model.grid)
        )
    # Masks of pixels are whole, so cells are covered by a little more or less than they really are.
    assert found == pytest.approx(inside(atlas.tar(tar).maps("legrad"), np.stack(covered)), abs=0.02)
