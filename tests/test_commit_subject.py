"""The commit-msg hook accepts imperative subjects of at most 72 characters, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml

_CONFIG = yaml.safe_load((Path(__file__).parents[1] / ".pre-commit-config.yaml").read_text("utf-8"))
(HOOK,) = [hook for hook in _CONFIG["repos"][0]["hooks"] if hook["id"] == "commit-subject"]


@pytest.mark.parametrize(
    "message",
    [
        "Add zero-shot heads",
        "Fix EXIF orientation of truth boxes\n",
        "Rename Cut to Threshold\n\nThe vocabulary has one word for it.\n",
        "Embed captions once for each shard\n# Please enter the commit message\n",
        "Re-export Atlas from the package",
    ],
)
def test_an_imperative_subject_is_accepted(message: str) -> None:
    assert re.search(HOOK["entry"], message, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "message",
    [
        "Added zero-shot heads",
        "Renaming Cut to Threshold",
        "fix orientation",
        "Fix orientation.",
        "Fix",
        "Fix " + "a" * 69,
        "Fix orientation\nof truth boxes",
        "",
    ],
)
def test_any_other_subject_is_refused(message: str) -> None:
    assert not re.search(HOOK["entry"], message, re.MULTILINE | re.DOTALL)
