"""ViRelAy and Quantus themselves open what is exported to them, each in an interpreter of its own (licences)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit.exports.export_audit import export_audit
from pipeline.audit.map_statistics import compute_coverage, compute_object_mass, compute_statistics
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.image.score_map import visible_window
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
        install += ["--retries=1", "--timeout=10", "--target", str(folder), *PACKAGES]
        done = subprocess.run(install, capture_output=True, text=True, timeout=120)
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
        assert picture["labels"] == [[sample["label"], atlas.run.class_name(sample["label"])]]
        assert picture["prediction"] == sample["prediction"]
        assert np.array_equal(picture["map"], atlas.map(sample["row"], method))
        assert picture["rendered"] == [[8, 8, 3], [96, 96, 3]] * 3
    assert len({picture["pixels"] for picture in found["pictures"]}) == 48
    assert {each["name"] for each in found["categories"]} == {str(sample["label"]) for sample in samples}
    places = [place for each in found["categories"] for place in each["places"]]
    assert sorted(places) == list(range(48))
    for each in found["categories"]:
        labels = {samples[place]["label"] for place in each["places"]}
        assert [atlas.run.class_name(label) for label in labels] == [each["readable"]]
        assert len(each["clusters"]) == len(each["embedding"]) == len(each["places"])
        assert {len(row) for row in each["embedding"]} == {len(each["eigenvalues"])}


def readme(folder: Path, shard: str) -> str:
    """The lines of the README, for LeGrad and a shard."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = re.sub("^shard = .*", f"shard = {shard!r}", code, flags=re.MULTILINE).replace("a/attention", "a/legrad")
    return f"import os; os.chdir({str(folder)!r})\n{code}"


@pytest.fixture(scope="module")
def measured(
    atlas: Atlas, audit: Path, peer: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """Scores of Quantus, of which one process is enough: it takes seconds to start."""
    bare = tmp_path_factory.mktemp("bare")
    export_audit(atlas, str(bare), "quantus", methods=["attention", "legrad"], pixels=False)
    first, second = atlas.commits
    lines = [
        "found = {}",
        readme(audit / "quantus", first),
        "found['mass'] = scores",
        "found['gini'] = quantus.Sparseness(disable_warnings=True)(model=None, x_batch=x, y_batch=y, a_batch=a)",
        readme(bare / "quantus", second),
        "found['bare gini'] = scores",
        "import json; print(json.dumps({name: [float(each) for each in found[name]] for name in found}))",
    ]
    return json.loads(run(peer, "-c", "\n".join(lines), folder=audit).splitlines()[-1])


@pytest.mark.parametrize(("name", "place"), [("gini", 0), ("bare gini", 1)])
def test_quantus_measures_sparseness_as_we_do(
    atlas: Atlas, measured: dict[str, list[float]], name: str, place: int
) -> None:
    shard = atlas.shard(list(atlas.commits)[place])
    assert measured[name] == pytest.approx(compute_statistics(shard.maps("legrad"))["gini"], abs=1e-4)


def test_quantus_finds_as_much_mass_inside_as_we_do(
    atlas: Atlas, world: SyntheticDataset, measured: dict[str, list[float]]
) -> None:
    """By the lines of the README as they stand."""
    shard, truths, size = atlas.shard(next(iter(atlas.commits))), read_truth(world.truth), atlas.run.model.input_size
    covered = []
    for sample in shard.samples.to_pylist():
        known, seen = truths.find(sample["key"]), visible_window(sample, size)
        covered.append(compute_coverage(known.for_sample(sample, atlas.run.spec.exif), seen, atlas.run.model.grid))
    # Masks of pixels are whole, so cells are covered by a little more or less than they really are.
    assert measured["mass"] == pytest.approx(compute_object_mass(shard.maps("legrad"), np.stack(covered)), abs=0.02)
