"""Whoever directs actors, reads, labels, scores or audits waits for no torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["pipeline.run.ray_executor", "pipeline.label.label_atlas", "pipeline.score", "pipeline.audit"]
)
def test_nothing_that_needs_no_network_loads_torch(module: str) -> None:
    code = f"import sys, jobs.cli, jobs.run, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line_lists_formats_without_what_writes_them() -> None:
    code = "import sys, jobs.audit, jobs.label; sys.exit(bool({'numpy', 'cv2', 'pyarrow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
