"""What a shell completes, by click's protocol."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from jobs.cli import COMMANDS, cli
from pipeline.audit.exports import EXPORTERS as EXPORTS
from pipeline.explain import methods
from pipeline.label import LABEL_FORMATS
from pipeline.store import Atlas


def completed(*words: str) -> list[str]:
    """What stands after a Tab behind the last word."""
    shell = ShellComplete(cli, {}, "vitatlas", "_VITATLAS_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_commands_and_flags() -> None:
    assert completed("") == list(COMMANDS)
    assert completed("train", "") == ["diffmask", "pm", "tscam"]
    assert completed("status", "--w") == ["--watch"]
    assert completed("run", "--executor", "") == ["ray", "inline"]


@pytest.mark.parametrize("command", ["plan", "run", "bench"])
def test_every_method_without_importing_one(command: str) -> None:
    assert completed(command, "--methods", "") == sorted(methods)
    assert completed(command, "--methods", "legrad,le") == []
    assert completed(command, "--methods", "rollout,le") == ["rollout,legrad"]


def test_formats_exports_targets_and_specs() -> None:
    assert completed("label", "atlas", "--format", "") == list(LABEL_FORMATS)
    assert completed("audit", "atlas", "--export", "") == list(EXPORTS)
    assert completed("plan", "--targets", "label,") == ["label,predicted", "label,top:", "label,text", "label,class:"]
    assert completed("plan", "--spec", "imagenet1k-v") == ["imagenet1k-validation"]


@pytest.mark.parametrize("command", ["score", "audit"])
def test_methods_of_the_atlas_that_is_named(command: str, atlas: Atlas) -> None:
    assert completed(command, atlas.objects.url, "--methods", "") == list(atlas.methods)
    assert completed(command, "nowhere", "--methods", "") == []


@pytest.mark.parametrize("words", [("status", ""), ("run", ""), ("label", "a", "--policy", ""), ("bench", "--out", "")])
def test_files_are_left_to_the_shell(words: tuple[str, ...]) -> None:
    shell = ShellComplete(cli, {}, "vitatlas", "_VITATLAS_COMPLETE")
    (item,) = shell.get_completions(list(words[:-1]), words[-1])
    assert item.type in ("file", "dir")


def test_a_shell_asks_the_program_itself_which_loads_nothing_slow(tmp_path: Path) -> None:
    script = """
import sys
sys.argv = ["vitatlas"]
from jobs.cli import main
try:
    main()
finally:
    assert not {"torch", "ray", "timm", "zarr", "pyarrow"} & set(sys.modules)
"""
    asked = {"_VITATLAS_COMPLETE": "bash_complete", "COMP_WORDS": "vitatlas run --methods re", "COMP_CWORD": "3"}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | asked, capture_output=True, text=True, check=False
    )
    assert ran.stdout == "plain,reciprocam\n", ran.stderr
    assert "AssertionError" not in ran.stderr
