"""The method of the tutorial, added to a copy of this project as the page says: one file, one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorials" / "method.md").read_text("utf-8")
FILE, LINE, ORACLE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that has the method."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("schemas", "pipeline", "jobs", "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    entries = copy / "pipeline" / "explain" / "attribution"
    (entries / "value_norm.py").write_text(FILE)
    (entries / "__init__.py").write_text(
        (entries / "__init__.py").read_text().replace("# isort: on\n", f"{LINE}# isort: on\n")
    )
    (copy / "tests" / "explain" / "test_value_norm.py").write_text(ORACLE)
    return copy


def python(copy: Path, *arguments: str) -> str:
    paths = os.pathsep.join(map(str, (copy, copy / "tests", copy / "docs" / "_ext")))
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.soak
def test_its_oracle_holds_and_the_tests_of_all_methods_take_it(copy: Path) -> None:
    files = "tests/explain/test_value_norm.py", "tests/explain/test_properties.py"
    chosen = "test_value_norm or (batch and layer)"  # of the networks one, with layer scale
    output = python(copy, "-m", "pytest", "-p", "no:cacheprovider", "-vv", *files, "-k", chosen)
    assert "test_a_cell_is_attention_times_the_length_of_its_value PASSED" in output
    assert "test_a_map_does_not_depend_on_its_batch[layer scale] PASSED" in output
    assert python(copy, "-c", "from explain.test_properties import ALL; print('value_norm' in ALL)") == "True\n"


def test_the_command_line_has_it(copy: Path) -> None:
    rows = {row["method"]: row for row in json.loads(python(copy, "-m", "jobs.cli", "methods", "--json"))}
    assert rows["value_norm"]["what it shows"].startswith("Attention of the read-out in the last layer, each head's")


@pytest.mark.soak
def test_the_reference_and_the_demo_have_it(copy: Path) -> None:
    python(copy, "docs/_ext/generate.py")
    assert "`value_norm`" in (copy / "README.md").read_text()
    assert "| `value_norm` | image |" in (copy / "docs" / "reference" / "methods.md").read_text()
    code = """
from pipeline.demo.run_demo import registry, MODEL
from pipeline.explain.load import load_model
from schemas.run import ModelSpec
anatomy = load_model(ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)).anatomy
print(*(method.name for method in registry.defaults(anatomy)))
"""
    assert "value_norm" in python(copy, "-c", code).split()
