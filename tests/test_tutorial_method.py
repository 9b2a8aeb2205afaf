"""The methods of the tutorial and of the how-to page, added to a copy of the project as the pages say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {"value_norm": "tutorials/method.md", "token_norm": "howto/add-a-method.md"}
"""The page that adds each method, by code blocks: the file, the line, the oracle."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that has the methods."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("schemas", "pipeline", "jobs", "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    package = copy / "pipeline" / "explain" / "attribution"
    for method, page in PAGES.items():
        file, line, oracle = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
        (package / f"{method}.py").write_text(file)
        init = package / "__init__.py"
        init.write_text(init.read_text().replace("# isort: on\n", f"{line}# isort: on\n"))
        (copy / "tests" / "explain" / f"test_{method}.py").write_text(oracle)
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
    files = *(f"tests/explain/test_{method}.py" for method in PAGES), "tests/explain/test_properties.py"
    oracles = " or ".join(f"test_{method}" for method in PAGES)
    chosen = f"{oracles} or (does_not_depend_on_its_batch and layer)"  # one model, with layer scale, and all methods
    output = python(copy, "-m", "pytest", "-p", "no:cacheprovider", "-vv", "-m", "", *files, "-k", chosen)
    assert "test_a_cell_is_attention_times_the_length_of_its_value PASSED" in output
    assert "test_a_cell_is_the_length_of_its_token PASSED" in output
    assert "test_a_map_does_not_depend_on_its_batch[layer scale] PASSED" in output


def test_the_command_line_has_it(copy: Path) -> None:
    rows = {row["method"]: row for row in json.loads(python(copy, "-m", "jobs.cli", "methods", "--json"))}
    assert rows["value_norm"]["what it shows"].startswith("Attention of the read-out in the last layer, each head's")
    assert rows["token_norm"]["what it shows"] == "Length of each patch token after the last block."


@pytest.mark.soak
def test_the_reference_and_the_demo_have_it(copy: Path) -> None:
    python(copy, "docs/_ext/generate.py")
    code = """
from pipeline.demo.run_demo import registry, MODEL
from pipeline.explain.load import load_model
from schemas.run import ModelSpec
anatomy = load_model(ModelSpec(name=f"local-dir:{MODEL}", pretrained=True)).anatomy
print(*(method.name for method in registry.defaults(anatomy)))
"""
    demo = python(copy, "-c", code).split()
    for method in PAGES:
        assert method in demo
        assert f"`{method}`" in (copy / "README.md").read_text()
        assert f"| `{method}` | image |" in (copy / "docs" / "reference" / "methods.md").read_text()
