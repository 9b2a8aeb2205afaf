"""What an audit was made with is told, and nothing about who made it where."""

import socket
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.audit.publication.environment import collect_environment
from pipeline.store import Atlas
from pipeline.utils.redaction import public_model_name
from schemas.audit_records import EnvironmentRecord


def test_versions_weights_and_all_that_decides_what_the_maps_are_is_told(finished: Path) -> None:
    found, run = collect_environment(Atlas.open(str(finished))), Atlas.open(str(finished)).run
    assert found.audit["torch"] == version("torch")
    assert set(found.audit) >= {"python", "torch", "timm", "numpy", "zarr", "pyarrow", "vit-atlas"}
    assert (found.planned, found.computed) == (run.versions, ((run.versions, 3),))
    assert (found.weights, found.run, found.model) == (run.model.weights, run.run_hash, "test_vit")
    assert set(found.methods) == set(run.methods)
    assert found.platform
    assert EnvironmentRecord.read(found.to_bytes(), "environment.json") == found
    assert collect_environment(Atlas.open(str(finished))).to_bytes() == found.to_bytes()


def test_no_path_and_no_name_of_a_machine_is_told(atlas: Atlas, finished: Path, tmp_path: Path) -> None:
    for each in (Path(atlas.objects.url), finished):
        text = collect_environment(Atlas.open(str(each))).to_bytes().decode()
        assert str(tmp_path) not in text
        assert str(each.parent) not in text
        assert str(Path(__file__).parents[2]) not in text
        assert f'"{socket.gethostname()}"' not in text
    assert collect_environment(atlas).model == "local-dir:model"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_base_patch16_224", "vit_base_patch16_224"),
        ("hf-hub:timm/vit_tiny", "hf-hub:timm/vit_tiny"),
        ("local-dir:/home/anna/nets/mine", "local-dir:mine"),
        ("local-dir:/home/anna/nets/mine/", "local-dir:mine"),
    ],
)
def test_of_a_folder_only_its_own_name_is_told(name: str, told: str) -> None:
    assert public_model_name(name) == told
