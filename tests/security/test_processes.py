"""A working folder of strangers: no process that is started imports a module from it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
from pipeline.utils.process_pool import ProcessPool

if __name__ == "__main__":
    with ProcessPool(1, "pipeline.image") as pool:
        print(pool.submit(len, "abc").result())
"""


def test_no_child_process_imports_from_the_working_folder(inside: Path, outside: Path) -> None:
    (inside / "bin").mkdir()
    (inside / "bin" / "command.py").write_text(SCRIPT)
    for module in ("numpy", "PIL", "cv2", "json", "random", "pipeline", "sitecustomize"):
        (inside / f"{module}.py").write_text(f"open({str(outside / 'marker')!r}, 'w')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    run = subprocess.run(
        [sys.executable, inside / "bin" / "command.py"],
        cwd=inside, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout == "3\n"
