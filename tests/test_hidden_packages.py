"""A user's own module named like one of our packages is named in the ImportError."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "from pipeline.utils import concurrency\nprint('imported')\n"


def run_script(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}  # of other tests
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["schemas.py", "jobs.py", "schemas/__init__.py"])
def test_a_module_that_hides_a_package_is_named(tmp_path: Path, module: str) -> None:
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text("mine = 1\n")
    result = run_script(tmp_path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / module}: hides the package")
    assert "rename it" in last


def test_a_folder_of_data_beside_a_script_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "table.json").write_text("{}")
    assert run_script(tmp_path).stdout == "imported\n"
